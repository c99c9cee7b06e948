"""Which remote task belongs to which unanswered Run: the decision between adopting, sending again, and admitting doubt.

An attempt is unanswered when its Run left and no usable answer came. It made one task or none; the service can't be
asked which. All there is, is Task/List: newest first, in pages that shift while tasks arrive, whose `parameters` may be
empty or rewritten, and where a fresh task may lag. Ids sort, clocks don't. What would pay twice or take the wrong clip,
and the rule that closes it:

1.  The task exists but isn't listed yet; sending again pays twice. -> Absence takes two complete listings, the first
    `settle` seconds after the connection was gone (after a restart: after the start), the second as long after it.
2.  A page shifts between two requests, and the task slips through the gap. -> Pages overlap by a known id, or the
    listing starts anew; a cap below what was asked only moves the next start.
3.  The listing ends above the task. -> It is complete only at the end of the list, or below both the known ids and the
    time window.
4.  The service's clock is off and the time window misses the task. -> A higher id alone makes a candidate.
5.  Ids don't sort for once. -> A creation time within ten minutes alone makes a candidate, too.
6.  The task is of another attempt: its answer came, or it was adopted. -> Tasks have one owner; ids are unique in the
    journal, and a second owner's row is refused by it.
7.  Two attempts at the same content are unanswered, one task is found: whose? -> At most one attempt of a fingerprint
    stands between intent and accepted, so that there is never a second (`runner` parks twins).
8.  Another program's task looks like ours because the service echoes `{}`, or nothing but the prompt is alike. ->
    Nothing echoed is no match: a match shows the prompt, equals in every text field shown, and has an image exactly if
    ours has one. What is no match is no proof of absence either: quarantine.
9.  The service rewrites a field (an uploaded image), so that our own task seems to differ; sending again pays twice. ->
    A difference counts only in fields that this journal has seen echoed verbatim, and never seen otherwise.
10. Two jobs differ in nothing that is echoed (one prompt for all, images inline): the clip of one would be taken for
    the other. -> A match must single out one content of the journal; else quarantine.
11. A task seems foreign only because of a candidate that is later adopted by its true owner, or the reverse. -> Every
    listing is judged from scratch, with the owners of that moment; one doubtful listing starts the proof anew.
12. The process dies between a proof and its commit, or between a Run and its answer. -> Nothing here has a memory:
    after a restart the proof begins again, and an intent without an answer counts as unanswered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from wan_async import wire

WINDOW_SECONDS = 600.0
"""How far apart our clock and the service's may be, for a creation time to make a candidate."""


@dataclass(slots=True)
class Unanswered:
    """An attempt whose Run was not answered.

    Attributes:
        attempt: the journal's number of it.
        form: the parameters exactly as sent.
        image: what the content knows the image by (its hash or URL), empty without one.
        high_id: the highest task id that was known when the intent was written.
        intent_at: when that was, in unix seconds.
        closed_at: when its connection was gone, or this process started; on the runner's monotonic clock.
        clear_since: when the first complete listing showed nothing but foreign tasks.
    """

    attempt: int
    form: Mapping[str, str]
    image: str
    high_id: int
    intent_at: float
    closed_at: float
    clear_since: float | None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """The task is the attempt's."""

    task: wire.Task


@dataclass(frozen=True, slots=True)
class Absent:
    """The attempt made no task: it may be sent again."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """It can't be told."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Too early to say: list again `at` this time (runner's monotonic clock)."""

    at: float


@dataclass(slots=True)
class Pages:
    """Puts a listing together from pages, and knows whether it is complete.

    Attributes:
        tasks: what was listed so far, by id.
        start: what to ask for next.
        complete: whether every task of the window is in it.
    """

    floor_id: int
    floor_time: float
    tasks: dict[str, wire.Task] = field(default_factory=dict)
    start: int = 0
    complete: bool = False
    restarts: int = 0

    def add(self, page: Sequence[wire.Task]) -> None:
        """The page that was asked for at `start`."""
        page = [task for task in page if task.id]
        if self.start and page and not any(task.id in self.tasks for task in page):
            self.tasks.clear()  # the list moved by more than a page in between: there may be a gap
            self.start = 0
            self.restarts += 1
            return
        fresh = [task for task in page if task.id not in self.tasks]
        self.tasks.update((task.id, task) for task in fresh)
        below = any(
            task_number(task.id) <= self.floor_id and (task.createtime or 0.0) < self.floor_time for task in fresh
        )
        self.complete = below or not fresh
        self.start += max(0, len(page) - 1)


def pages_for(cases: Collection[Unanswered]) -> Pages:
    """An empty listing that must reach below the window of all these attempts."""
    return Pages(
        floor_id=min(case.high_id for case in cases),
        floor_time=min(case.intent_at for case in cases) - WINDOW_SECONDS,
    )


def task_number(task_id: str) -> int:
    """A task id as the number it sorts by; one that isn't a number sorts last, so that it is never overlooked."""
    return int(task_id) if task_id.isascii() and task_id.isdigit() else 1 << 62


def is_candidate(case: Unanswered, task: wire.Task) -> bool:
    """Whether the task may have come of the attempt's Run, by its id or by its time."""
    if task_number(task.id) > case.high_id:
        return True
    return task.createtime is not None and abs(task.createtime - case.intent_at) <= WINDOW_SECONDS


def differs(form: Mapping[str, str], task: wire.Task, echoed: Collection[str]) -> bool:
    """Whether the task shows another value in a field that this service echoes verbatim."""
    return any(name in task.parameters and shown(task, name) != form[name] for name in echoed if name in form)


def shown(task: wire.Task, name: str) -> str:
    """What the service shows of a parameter, as text."""
    value = task.parameters.get(name)
    return "" if value is None else str(value)


def verbatim(form: Mapping[str, str], task: wire.Task) -> dict[str, bool]:
    """What an own task teaches about the echo: fields that were sent with a value and came back, and whether the same.

    An empty value that comes back empty teaches nothing.
    """
    return {name: shown(task, name) == value for name, value in form.items() if value and name in task.parameters}


TEXT_FIELDS = ("prompt", "negativePrompt", "resolution", "aspectRatio", "seed")
IMAGE_FIELDS = ("inputImageUrl", "inputImage")


class Contents:
    """Every content of a journal, to count those that can't be told apart by what a task shows."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()
        self._alike: Counter[tuple[str, ...]] = Counter()

    def add(self, form: Mapping[str, str], image: str) -> None:
        """A job with these parameters and this image (its hash or URL, empty without one)."""
        text = tuple(form[name] for name in TEXT_FIELDS)
        if (*text, image) not in self._known:
            self._known.add((*text, image))
            self._alike[text] += 1

    def alike(self, form: Mapping[str, str], image: str, shown_fields: Collection[str], *, image_shown: bool) -> int:
        """How many contents equal this one in the text fields shown, and in the image if that is shown."""
        if len(set(shown_fields) & set(TEXT_FIELDS)) == len(TEXT_FIELDS):
            return 1 if image_shown else self._alike[tuple(form[name] for name in TEXT_FIELDS)]
        wanted = [(place, form[name]) for place, name in enumerate(TEXT_FIELDS) if name in shown_fields]
        if image_shown:
            wanted.append((len(TEXT_FIELDS), image))
        return sum(all(content[place] == value for place, value in wanted) for content in self._known)


def matches(case: Unanswered, task: wire.Task, contents: Contents) -> bool:
    """Whether what the task shows singles out this attempt's content among all of the journal."""
    shows = [name for name in TEXT_FIELDS if name in task.parameters]
    if "prompt" not in shows or any(shown(task, name) != case.form[name] for name in shows):
        return False
    told_of_image = any(name in task.parameters for name in IMAGE_FIELDS)
    if told_of_image and any(shown(task, name) for name in IMAGE_FIELDS) != bool(case.image):
        return False
    url = case.form["inputImageUrl"]
    image_shown = shown(task, "inputImageUrl") == url if url else told_of_image and not case.image
    return contents.alike(case.form, case.image, shows, image_shown=image_shown) <= 1


def judge(
    case: Unanswered,
    tasks: Collection[wire.Task],
    *,
    complete: bool,
    now: float,
    settle: float,
    owned: Collection[str],
    echoed: Collection[str],
    contents: Contents,
) -> Adopt | Absent | Quarantine | Wait:
    """What a listing says about one unanswered attempt.

    Args:
        case: the attempt; its `clear_since` is moved.
        tasks: the listing.
        complete: whether it is known to hold every task of the window.
        now: when the listing began, on the clock of `closed_at`.
        settle: how long the service may take to list a task, in seconds.
        owned: ids of tasks that attempts of this journal own.
        echoed: fields that this service echoes verbatim.
        contents: all contents of this journal.
    """
    doubtful = [
        task
        for task in tasks
        if is_candidate(case, task) and task.id not in owned and not differs(case.form, task, echoed)
    ]
    ours = [task for task in doubtful if task_number(task.id) > case.high_id and matches(case, task, contents)]
    if ours:
        return Adopt(min(ours, key=lambda task: task_number(task.id)))
    settled_at = case.closed_at + settle
    if doubtful:
        case.clear_since = None
        if now >= settled_at + settle:
            ids = ", ".join(sorted((task.id for task in doubtful), key=task_number)[:5])
            return Quarantine(f"it can't be told from the service's answers whether one of its tasks is ours ({ids})")
        return Wait(settled_at if now < settled_at else settled_at + settle)
    if now < settled_at:
        return Wait(settled_at)
    if not complete:
        return Wait(now + 1.0)
    if case.clear_since is None:
        case.clear_since = now
        return Wait(now + settle)
    return Absent() if now >= case.clear_since + settle else Wait(case.clear_since + settle)
