"""What everything in one run works with: clients, clock, randomness, options, and the parts that keep its state.

The environment itself is frozen. Each of its parts owns its state and is the only one to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wan_async import errors
from wan_async.domain.naming import folded
from wan_async.engine.account_facts import AccountFacts
from wan_async.engine.concurrency import AUTO_START, Window
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.leases import Slots, Wake
from wan_async.engine.options import Options
from wan_async.engine.pricing import Prices
from wan_async.engine.run_events import Events, EventStream
from wan_async.engine.runs_in_flight import InFlight
from wan_async.engine.shutdown import Shutdown
from wan_async.engine.task_hints import TaskHints
from wan_async.engine.tracker import Tracker
from wan_async.http.retry import Backoff
from wan_async.journal.base import Journal
from wan_async.journal.image_paths import ImagePaths
from wan_async.journal.journal_location import local_home
from wan_async.output_locations import Location
from wan_async.outputs.base import Store
from wan_async.outputs.downloader import Downloader
from wan_async.threads import Offload
from wan_async.wiro.api import Api

PARTS = "parts"
"""Where in the journal's folder the clips are that are not in their object store yet."""


class TakenNames:
    """Names of files in the output folder: those that were there when the run began, and those added since."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def load(self, names: Iterable[str]) -> None:
        """Begins with these names."""
        self._names = set(map(folded, names))

    def add(self, file: str) -> None:
        """A file was published under this name."""
        self._names.add(folded(file))

    def __contains__(self, file: str) -> bool:
        return folded(file) in self._names


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What everything in one run works with.

    Attributes:
        journal: the durable record of attempts.
        api: the client of the service.
        downloader: fetches the clips.
        offload: runs blocking calls.
        clock: unix seconds.
        draw: numbers in [0, 1) for jitter.
        options: how to run.
        output: the output folder, or the URL in its place.
        images: where the local images of jobs are, for sidecars.
        store: where the clips end up.
        backoff: between tries of what failed for a passing reason.
        wake: wakes the scheduler.
        events: reports what happens.
        shutdown: whether the run still submits.
        slots: the slots and the locks on contents.
        in_flight: the Runs in flight.
        tracker: which tasks have ended.
        hints: notifications of the WebSocket.
        prices: what is reserved for a task.
        account: facts about the account and the service.
        taken: names of files in the output folder.
    """

    journal: Journal
    api: Api
    downloader: Downloader
    offload: Offload
    clock: Callable[[], float]
    draw: Callable[[], float]
    options: Options
    output: Location
    images: ImagePaths
    store: Store
    backoff: Backoff
    wake: Wake
    events: Events
    shutdown: Shutdown
    slots: Slots
    in_flight: InFlight
    tracker: Tracker
    hints: TaskHints
    prices: Prices
    account: AccountFacts
    taken: TakenNames

    def delay(self, failures: int, error: errors.WanError | None = None) -> float:
        """The seconds to wait after a number of failures in a row, the last with `error`."""
        asked = error.after_seconds if isinstance(error, errors.TryLater) else None
        return self.backoff.delay(failures, self.draw(), asked)


def make_environment(
    journal: Journal,
    dependencies: Dependencies,
    options: Options,
    output: Location,
    stream: EventStream,
    run_id: str,
    window: Window | None = None,
) -> Environment:
    """The environment of one run.

    Args:
        journal: the open journal.
        dependencies: what the caller provides.
        options: how to run.
        output: the output folder, or the URL in its place.
        stream: takes the events.
        run_id: names the run in its events.
        window: how many tasks may be active; by default as the options say.
    """
    wake = Wake()
    events = Events(stream, run_id, dependencies.clock)
    shutdown = Shutdown(events, wake, options.patience_seconds)
    tracker = Tracker(dependencies.api, draw=dependencies.draw, on_outage=events.outage, patience=shutdown.patience)
    ceiling = options.concurrency or options.max_concurrency
    return Environment(
        journal=journal,
        api=dependencies.api,
        downloader=dependencies.downloader,
        offload=dependencies.offload,
        clock=dependencies.clock,
        draw=dependencies.draw,
        options=options,
        output=output,
        images=ImagePaths(output, public=True),
        store=dependencies.open_store(
            output,
            parts=local_home(journal.home, output) / PARTS,
            files=dependencies.files,
            offload=dependencies.offload,
        ),
        backoff=Backoff(first_seconds=1.0),
        wake=wake,
        events=events,
        shutdown=shutdown,
        slots=Slots(window or Window(options.concurrency or AUTO_START, ceiling), wake),
        in_flight=InFlight(),
        tracker=tracker,
        hints=TaskHints(
            tracker,
            events,
            dependencies.socket_url if options.track != "poll" else None,
            dependencies.draw,
            patient=options.track == "socket",
        ),
        prices=Prices(dependencies.api, journal, lambda: tracker.durations.quantile(0.9), wake),
        account=AccountFacts(journal),
        taken=TakenNames(),
    )
