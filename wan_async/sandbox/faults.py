"""What goes wrong, on purpose: named faults, drawn from a seeded generator or scripted one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass

ANYWHERE = (
    "Run",
    "Task/Detail",
    "Task/List",
    "Task/Cancel",
    "Task/Kill",
    "Task/InputOutputDelete",
    "File/Upload",
    "Tool/Detail",
    "Wallet/List",
)
DENIABLE = ("Task/Detail", "Task/List", "Task/Cancel", "Task/Kill", "Task/InputOutputDelete")


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault: what happens, the endpoints at which it can, and whether it passes by itself."""

    does: str
    at: tuple[str, ...] = ANYWHERE
    passes: bool = True


NAMES = {
    "drop_before": Kind("the connection is cut, and nothing was done"),
    "drop_after": Kind("the request is done, then the connection is cut"),
    "http_500": Kind("an HTML 500, and nothing was done"),
    "html_502": Kind("an HTML 502 of a proxy, and half of the requests were done"),
    "html_403": Kind("an HTML 403 of a firewall, and nothing was done"),
    "html_404": Kind("an HTML 404 of a proxy, and nothing was done"),
    "http_429": Kind("429 with Retry-After, and nothing was done"),
    "cut_json": Kind("the request is done, and the answer's JSON ends early"),
    "slow_answer": Kind("the answer takes 1 to 3 s longer"),
    "failed_render": Kind("the task ends with pexit 1 and is not billed", ("Run",)),
    "task_error": Kind("the task shows task_error for some seconds before it is queued again and runs", ("Run",)),
    "task_error_stuck": Kind("the task shows task_error for ever", ("Run",), passes=False),
    "late_outputs": Kind("the ended task shows outputs, and perhaps pexit, some seconds later", ("Run",)),
    "late_cdn": Kind("the CDN answers 404 or 403 for some seconds after the task's end", ("Run",)),
    "kept_outputs": Kind(
        "the killed task shows pexit 0, outputs and a cost, as the model page's sample does", ("Task/Kill",)
    ),
    "late_charge": Kind(
        "the task is charged some seconds after it was cancelled or killed", ("Task/Cancel", "Task/Kill")
    ),
    "bad_size": Kind("the task's clip is announced with a wrong size", ("Run",)),
    "vanish": Kind("a task is missing from this one answer", ("Task/Detail", "Task/List")),
    "denied": Kind("a task is denied for some seconds", ("Task/Detail", "Task/List")),
    "odd_denial": Kind("a denial is put in other words, and has code 0", DENIABLE),
    "cut_download": Kind("the connection is cut within a clip", ("cdn",)),
    "no_etag": Kind("a clip comes without an ETag, or with a weak one", ("cdn",)),
    "ignores_range": Kind("a clip comes whole though a range of it was asked for", ("cdn",)),
    "socket_drop": Kind("the WebSocket is closed after a message of the client", ("socket",)),
    "socket_mute": Kind("the WebSocket says nothing of the task subscribed to", ("socket",)),
}
"""What can go wrong, by name."""
PASSING = tuple(name for name, kind in NAMES.items() if kind.passes)
"""The faults after which everything goes on without anybody's help."""
DENIALS = {
    "no-task": (1, "There is no task yet."),
    "not-founded": (0, "task-not-founded"),
    "not-exist": (0, "task-not-exist"),
}
"""How the service says that there is no such task: error code and message."""
REFUSALS = {
    "suspended": (0, "Your account has been suspended. Please contact support."),
    "permission": (0, "You don't have any permission for this action."),
    "not-available": (0, "This model is not available for your team"),
    "not-allowed": (0, "This model is not allowed in your team. Please contact your team administrator."),
    "team-limit": (0, "Team spend limit has been reached"),
    "personal-limit": (0, "Your personal spend limit in this team has been reached"),
    "sign-in": (98, "sign in to run this model"),
    "no-tool": (1, "tool-not-accessible"),
    "no-project": (1, "slug-owner-project-not-exist"),
    "parameter": (0, "Request parameter [prompt] required"),
    "parameters": (0, "Request parameters are invalid."),
    "files": (0, "Request files [inputImage] required"),
}
"""How the service refuses a Run for good: error code and message."""


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
        start: how often there was a generator of this seed before: another start meets other faults, lest a client that
            is restarted meet the very same one for ever.

    Raises:
        ValueError: for a name that isn't one of `NAMES`, or an endpoint that can't meet it.
    """

    def __init__(self, probabilities: dict[str, float] | None = None, seed: int = 0, start: int = 0) -> None:
        self.probabilities = dict(probabilities or {})
        for name in self.probabilities:
            check(name)
        self._random = random.Random(f"faults-{seed}" + f"-{start}" * (start > 0))  # noqa: S311 - seeded on purpose
        self._script: list[_Scripted] = []

    def next(self, name: str, endpoint: str | None = None, times: int = 1) -> None:
        """The next request (to `endpoint`) that can meet this fault meets it."""
        check(name if endpoint is None else f"{name}@{endpoint}")
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
    """Raises ValueError for the name of no fault, or for an endpoint that can't meet it."""
    fault, _, endpoint = name.partition("@")
    if fault not in NAMES:
        raise ValueError(f"{fault!r} is no fault; there are {', '.join(NAMES)}")
    if endpoint and endpoint not in NAMES[fault].at:
        raise ValueError(f"{fault} can't happen at {endpoint!r}, but at {', '.join(NAMES[fault].at)}")
