"""The events of a run and of a task: what `async for event in batch` and `client.track` yield.

`AnyEvent` is the union of them, so that a type checker knows which cases a `match` leaves out. Facts (`Accepted`,
`Ended`, `Stored`, `Failed`, ...) always arrive, in order; of `Progress` and `Downloading` a slow reader misses some.
`Event` and `JobEvent` have the fields of all events, and of those about a job. A later version may have more events:
keep a case for the rest.

Example:
    >>> from wan_async import events
    >>> def show(event: events.AnyEvent) -> str:
    ...     match event:
    ...         case events.Progress(job=job, percent=percent):
    ...             return f"{job}: {percent} %"
    ...         case events.Stored(job=job, file=file):
    ...             return f"{job}: {file}"
    ...         case _:
    ...             return ""
"""

from __future__ import annotations

from wan_async.domain.events import (
    Accepted,
    AnyEvent,
    Cancelled,
    Downloading,
    Ended,
    Event,
    Failed,
    Finished,
    JobEvent,
    Limited,
    Missing,
    PriceGroup,
    Problem,
    Progress,
    Quarantined,
    Retrying,
    Started,
    Stopping,
    Stored,
    Submitting,
    Unknown,
    Uploaded,
    as_dict,
)

__all__ = [
    "Accepted",
    "AnyEvent",
    "Cancelled",
    "Downloading",
    "Ended",
    "Event",
    "Failed",
    "Finished",
    "JobEvent",
    "Limited",
    "Missing",
    "PriceGroup",
    "Problem",
    "Progress",
    "Quarantined",
    "Retrying",
    "Started",
    "Stopping",
    "Stored",
    "Submitting",
    "Unknown",
    "Uploaded",
    "as_dict",
]
