"""What goes wrong, on purpose: named faults, drawn from a seeded generator or scripted one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass

NAMES = (
    "drop_before",
    "drop_after",
    "http_500",
    "html_502",
    "http_429",
    "cut_json",
    "cut_download",
    "slow_answer",
    "failed_render",
    "task_error",
    "vanish",
    "bad_size",
    "socket_drop",
    "socket_mute",
)
"""What can go wrong. `drop_*`: the connection is cut before or after the request was processed. `http_500`: before.
`html_502`: half before, half after. `cut_json`: processed, the answer cut. `vanish`: a task is missing from one answer.
`bad_size`: an output is announced with a wrong size."""


@dataclass(slots=True)
class _Scripted:
    name: str
    endpoint: str | None
    times: int


class Faults:
    """Decides which request meets which fault.

    Args:
        probabilities: by name, or by `name@Endpoint` for one endpoint alone (`drop_after@Run`).
        seed: of the generator.

    Raises:
        ValueError: for a name that isn't one of `NAMES`.
    """

    def __init__(self, probabilities: dict[str, float] | None = None, seed: int = 0) -> None:
        self.probabilities = dict(probabilities or {})
        for name in self.probabilities:
            check(name)
        self._random = random.Random(f"faults-{seed}")  # noqa: S311 - seeded on purpose
        self._script: list[_Scripted] = []

    def next(self, name: str, endpoint: str | None = None, times: int = 1) -> None:
        """The next request (to `endpoint`) that can meet this fault meets it."""
        check(name)
        self._script.append(_Scripted(name, endpoint, times))

    def meets(self, name: str, endpoint: str) -> bool:
        """Whether this request to `endpoint` meets the fault."""
        for scripted in self._script:
            if scripted.name == name and scripted.endpoint in (None, endpoint):
                scripted.times -= 1
                if scripted.times == 0:
                    self._script.remove(scripted)
                return True
        probability = self.probabilities.get(f"{name}@{endpoint}", self.probabilities.get(name, 0.0))
        return probability > 0 and self._random.random() < probability

    def draw(self) -> float:
        """A number in [0, 1) from the same generator."""
        return self._random.random()


def check(name: str) -> None:
    """Raises ValueError for the name of no fault."""
    if name.partition("@")[0] not in NAMES:
        raise ValueError(f"{name!r} is no fault; there are {', '.join(NAMES)}")
