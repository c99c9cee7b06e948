"""Injected faults: one table of all faults, and the choice of the requests that meet them.

The command line's flags and help, and the checks of fault names, are derived from `FAULTS`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

API_ENDPOINTS = (
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
TASK_ENDPOINTS = ("Task/Detail", "Task/List", "Task/Cancel", "Task/Kill", "Task/InputOutputDelete")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    Attributes:
        effect: what happens to a request that meets it, or to the task that the request creates.
        endpoints: where it can happen; `cdn` is a download, `socket` the WebSocket.
        transient: everything goes on without intervention.
        duration: the field of `Settings` with its duration in seconds, if it has one.
    """

    effect: str
    endpoints: tuple[str, ...] = API_ENDPOINTS
    transient: bool = True
    duration: str | None = None


FAULTS = {
    "drop_before": Fault("the connection is closed before the request is processed"),
    "drop_after": Fault("the request is processed, then the connection is closed without an answer"),
    "http_500": Fault("HTML page with status 500; the request is not processed"),
    "html_502": Fault("HTML page of a proxy with status 502; half of the requests are processed"),
    "html_403": Fault("HTML page of a firewall with status 403; the request is not processed"),
    "html_404": Fault("HTML page of a proxy with status 404; the request is not processed"),
    "http_429": Fault("status 429 with Retry-After; the request is not processed"),
    "cut_json": Fault("the request is processed; the answer's JSON is truncated"),
    "slow_answer": Fault("the answer takes 1 to 3 s longer"),
    "failed_render": Fault("the task ends with pexit 1 and is not charged", ("Run",)),
    "task_error": Fault(
        "the task shows task_error for some seconds, is queued again and runs", ("Run",), duration="task_error_seconds"
    ),
    "task_error_stuck": Fault("the task shows task_error for ever", ("Run",), transient=False),
    "late_outputs": Fault(
        "the ended task shows its outputs, and sometimes its pexit, some seconds later",
        ("Run",),
        duration="late_outputs_seconds",
    ),
    "late_cdn": Fault(
        "the CDN answers 404 or 403 for some seconds after the task's end", ("Run",), duration="late_cdn_seconds"
    ),
    "kept_outputs": Fault(
        "the killed task shows pexit 0, outputs and a cost, as the model page's sample does", ("Task/Kill",)
    ),
    "late_charge": Fault(
        "the task is charged some seconds after it was cancelled or killed",
        ("Task/Cancel", "Task/Kill"),
        duration="late_charge_seconds",
    ),
    "bad_size": Fault("the API announces a wrong size for the task's clip", ("Run",)),
    "vanish": Fault("a task is missing from this one answer", ("Task/Detail", "Task/List")),
    "denied": Fault(
        "a task is reported as not existing for some seconds", ("Task/Detail", "Task/List"), duration="denied_seconds"
    ),
    "odd_denial": Fault("a task that does not exist is reported in other words and with code 0", TASK_ENDPOINTS),
    "cut_download": Fault("the connection is closed in the middle of a clip", ("cdn",)),
    "no_etag": Fault("a clip is served without an ETag, or with a weak one", ("cdn",)),
    "ignores_range": Fault("a range request is answered with the whole clip", ("cdn",)),
    "socket_drop": Fault("the WebSocket is closed after a message of the client", ("socket",)),
    "socket_mute": Fault("the WebSocket sends no messages for the subscribed task", ("socket",)),
}
"""All faults, by name."""
TRANSIENT = tuple(name for name, fault in FAULTS.items() if fault.transient)
"""Names of the faults after which everything goes on without intervention."""
DENIALS = {
    "no-task": (1, "There is no task yet."),
    "not-founded": (0, "task-not-founded"),
    "not-exist": (0, "task-not-exist"),
}
"""Error code and message for a task that does not exist, by name."""
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
"""Error code and message of a Run that is refused permanently, by reason."""


@dataclass(slots=True)
class _Scripted:
    name: str
    endpoint: str | None
    times: int


class Faults:
    """Decides which request meets which fault, by probability or by script.

    Args:
        probabilities: by name, or by `name@Endpoint` for a single endpoint (`drop_after@Run`).
        seed: of the random generator.
        starts: number of earlier starts with the same state folder. Each start draws a different sequence; otherwise a
            client that is restarted would meet the same fault every time.

    Raises:
        ValueError: a name is not in `FAULTS`, or its endpoint cannot meet the fault.

    Example:
        >>> faults = Faults({"http_500@Task/List": 0.05}, seed=1)
        >>> faults.next("drop_after", "Run")
    """

    def __init__(self, probabilities: dict[str, float] | None = None, seed: int = 0, starts: int = 0) -> None:
        self.probabilities: dict[str, float] = {}
        self.set_probabilities(probabilities or {})
        self._random = random.Random(f"faults-{seed}" + f"-{starts}" * (starts > 0))  # noqa: S311 - seeded on purpose
        self._script: list[_Scripted] = []

    def set_probabilities(self, probabilities: dict[str, float]) -> None:
        """Replace all probabilities.

        Raises:
            ValueError: as for the class.
        """
        for name in probabilities:
            check_fault(name)
        self.probabilities = dict(probabilities)

    def next(self, name: str, endpoint: str | None = None, times: int = 1) -> None:
        """Let the next requests that can meet this fault meet it.

        Args:
            name: a name in `FAULTS`.
            endpoint: only requests to this endpoint.
            times: number of requests.

        Raises:
            ValueError: as for the class.
        """
        check_fault(name if endpoint is None else f"{name}@{endpoint}")
        self._script.append(_Scripted(name, endpoint, times))

    def meets(self, name: str, endpoint: str) -> bool:
        """Whether this request to `endpoint` meets the fault. A scripted fault is used up, and nothing is drawn."""
        for scripted in self._script:
            if scripted.name == name and scripted.endpoint in (None, endpoint):
                scripted.times -= 1
                if scripted.times == 0:
                    self._script.remove(scripted)
                return True
        probability = self.probabilities.get(f"{name}@{endpoint}", self.probabilities.get(name, 0.0))
        return probability > 0 and self._random.random() < probability

    def draw(self) -> float:
        """Draw a number in [0, 1) from the same generator."""
        return self._random.random()


def check_fault(name: str) -> None:
    """Check `name` or `name@Endpoint`.

    Raises:
        ValueError: there is no such fault, or the endpoint cannot meet it.
    """
    fault, _, endpoint = name.partition("@")
    if fault not in FAULTS:
        raise ValueError(f"there is no fault {fault!r}; choose from {', '.join(FAULTS)}")
    if endpoint and endpoint not in FAULTS[fault].endpoints:
        raise ValueError(f"{fault} cannot happen at {endpoint!r}, only at {', '.join(FAULTS[fault].endpoints)}")
