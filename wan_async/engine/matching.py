"""Which remote task belongs to which unanswered Run: the decision between adopting, sending again, and admitting doubt.

An attempt is unanswered when its Run left and no usable answer came. It made one task or none; the service can't be
asked which. All there is, is Task/List: newest first, in pages that shift while tasks arrive, whose `parameters` may be
empty or rewritten, and where a fresh task may lag. Ids sort, clocks don't. What would pay twice or take the wrong clip,
and the rule that closes it:

1.  The task exists but isn't listed yet; sending again pays twice. -> Absence takes two complete listings, the first
    `settle` seconds after the connection was gone (after a restart: after the start), the second as long after its end.
2.  A page shifts between two requests, and the task slips through the gap. -> Pages overlap by a known id, or the
    listing starts anew; a cap below what was asked only moves the next start.
3.  The listing ends above the task. -> It is complete only at the end of the list, or below both the known ids and the
    time window.
4.  The service's clock is off and the time window misses the task. -> A higher id alone makes a candidate.
5.  Ids don't sort for once. -> A creation time within ten minutes alone makes a candidate, too.
6.  The task is of another attempt: its answer came, or it was adopted. -> Tasks have one owner; ids are unique in the
    journal, and a second owner's row is refused by it.
7.  Two attempts at the same content are unanswered, one task is found: whose? -> At most one attempt of a content
    stands between intent and accepted, so that there is never a second (`carry` parks twins).
8.  Another program's task looks like ours because the service echoes `{}`, or nothing but the prompt is alike. ->
    Nothing echoed is no match: a match shows the prompt, equals in every text field shown, and has an image exactly if
    ours has one. What is no match is no proof of absence either: quarantine.
9.  The service rewrites a field (an uploaded image), so that our own task seems to differ; sending again pays twice. ->
    A difference counts only in fields that this journal has seen echoed verbatim, and never seen otherwise.
10. Two jobs differ in nothing that is echoed (one prompt for all, images inline): the clip of one would be taken for
    the other. -> A match must single out one content of the journal; else quarantine.
11. A task seems foreign only because of a candidate that is later adopted by its true owner, or the reverse. -> Every
    listing is judged from scratch, with the owners of that moment; one doubtful listing starts the proof anew.
12. The process dies between a proof and its commit, or between a Run and its answer. -> Nothing here outlives the
    process: after a restart the proof begins again, and an intent without an answer counts as unanswered.
13. The list moves by almost a page: the next page holds nothing new, and passes for the end. -> The end is a page of
    the last known task alone, with nothing after it.
14. Tasks are deleted while pages are read: the next page is empty, and passes for the end. -> An empty page ends
    nothing but what was at its end before.
15. "There is no task" although there was one before the Run (a filter, a replica, a fault). -> An empty list is
    complete only if no task was ever known.
16. The list isn't sorted as asked, and old tasks stand above ours. -> Only a page that descends to its end can be below
    the window.
17. A field that is echoed verbatim as a rule is rewritten in this value: `&amp;`, a cut, a lost emoji, 42.0; or left
    empty while the task is young; or an uploaded image's URL is rewritten where others are not. -> A difference counts
    only between two values that are there and differ in their letters and digits; URLs are learned host by host.
18. The service hides an uploaded file behind an empty image field, or a negative prompt behind an empty one: the task
    of a twin that has one seems to be of the job that has none. -> An empty field shows nothing.
19. Another program's task has our text and another image, and is listed before ours (in a service that rewrites images
    both look alike). -> Where the image isn't shown as sent, a match waits for `settle`, and must be the only one.
20. A task that may be ours is seen, and vanishes before it could be told. -> A doubt stays until its task has an owner
    or shows a difference, whether or not it is still listed.
21. A task is listed without an id. -> It is in doubt like any other; only what has an id is adopted.
22. Ids aren't numbers: an older task of the same content seems newer than the Run. -> Such a task is adopted only if
    its creation time is within the window.
23. An attempt's own task is known by its token alone, and its twin takes it. -> A known token owns, too.
24. No listing is ever complete (a busier account than pages can be read, a cap of one task, a service that refuses to
    list). -> No proof, no second Run: quarantine after `INCOMPLETE_SECONDS`.
25. The job was edited while its attempt was open: once that is proven absent, or its render fails, the new content
    would be sent for it, and for the job itself. -> An attempt is repeated only for a job of its own content (`carry`).
26. A stop comes when `--resubmit-unknown` has given an attempt up and not sent it again: the next run would, unasked.
    -> Nothing is given up any more once the run stops; nor what `--only` leaves out.

27. With a team's key the list holds teammates' tasks, and one of them equals ours. -> A task that shows another project
    than this key's own tasks did is foreign; after a key's rotation the projects are learned anew.
28. Ids begin again, and the unanswered Run's task has the id of an older attempt: it seems to be owned. -> The same id
    with another token is another task; it is in doubt, and never adopted.

What remains: a process that dies between giving an attempt up, as asked, and the new intent has it sent by the next run
without asking again. And another program's task with our text and an image that nobody shows is taken for ours if our
Run made none; it is no worse than the content says, save for the image.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from wan_async.domain.model import Model
from wan_async.domain.task import Task
from wan_async.engine.task_listing import NO_NUMBER, Owners, Pages, key_of, task_number


def pages_for(cases: Collection[Unanswered]) -> Pages:
    """An empty listing that must reach below the window of all these attempts."""
    return Pages(
        floor_id=min(case.high_id for case in cases),
        floor_time=min(case.intent_at for case in cases) - WINDOW_SECONDS,
    )


WINDOW_SECONDS = 600.0
"""How far apart our clock and the service's may be, for a creation time to make a candidate."""
INCOMPLETE_SECONDS = 600.0
"""How long listings may be incomplete before the attempt is given up as untold."""


@dataclass(slots=True)
class Unanswered:
    """An attempt whose Run was not answered.

    Attributes:
        model: the model that was run.
        attempt: the journal's number of it.
        form: the parameters exactly as sent.
        image: what the content knows the image by (its hash or URL), empty without one.
        high_id: the highest task id that was known when the intent was written.
        intent_at: when that was, in unix seconds.
        closed_at: when its connection was gone, or this process started; on the runner's monotonic clock.
        clear_since: when the first complete listing ended that showed nothing but foreign tasks.
        incomplete_since: when the first of the latest listings began that were incomplete.
        doubts: tasks that were listed once and may be ours, by key.
    """

    model: Model
    attempt: int
    form: Mapping[str, str]
    image: str
    high_id: int
    intent_at: float
    closed_at: float
    clear_since: float | None = None
    incomplete_since: float | None = None
    doubts: dict[str, Task] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adopt:
    """The task is the attempt's."""

    task: Task


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


Final = Adopt | Absent | Quarantine
Verdict = Final | Wait


def is_candidate(case: Unanswered, task: Task) -> bool:
    """Whether the task may have come of the attempt's Run, by its id or by its time."""
    return task_number(task.id) > case.high_id or _in_window(case, task)


def _in_window(case: Unanswered, task: Task) -> bool:
    return task.createtime is not None and abs(task.createtime - case.intent_at) <= WINDOW_SECONDS


def differs(model: Model, form: Mapping[str, str], task: Task, echoed: Collection[str]) -> bool:
    """Whether the task shows another value in a field that this service echoes verbatim."""
    return any(
        bool(value) and bool(seen := shown(task, name)) and not _same(value, seen)
        for name, value in form.items()
        if name in task.parameters and echo_of(model, name, value) in echoed
    )


def shown(task: Task, name: str) -> str:
    """What the service shows of a parameter, as text."""
    value = task.parameters.get(name)
    return str(value) if isinstance(value, str | int | float) else ""


def echo_of(model: Model, name: str, value: str) -> str:
    """What is learned about the echo of such a value: one word a field, and of URLs one a host."""
    if name not in model.image_fields:
        return name
    try:
        return f"{name}@{urlsplit(value).netloc}"
    except ValueError:
        return name


_CUT = 12  # so many letters and digits that agree may be a text that was cut, or a URL that lost its query


def _same(sent: str, seen: str) -> bool:
    """Whether one text may be what a service made of the other."""
    try:
        if float(sent) == float(seen):
            return True
    except ValueError:
        pass
    short, long = sorted((_plain(sent), _plain(seen)), key=len)
    return short == long or (len(short) >= _CUT and long.startswith(short))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", html.unescape(re.sub(r"&#?\w{0,6}$", "", text)))  # an entity may be cut, too
    return "".join(letter for letter in text if letter.isascii() and letter.isalnum()).lower()


def verbatim(model: Model, form: Mapping[str, str], task: Task) -> dict[str, bool]:
    """What an own task teaches about the echo: fields that were sent with a value and came back, and whether the same.

    An empty value that comes back empty teaches nothing.
    """
    return {
        echo_of(model, name, value): shown(task, name) == value
        for name, value in form.items()
        if value and name in task.parameters
    }


class Contents:
    """All contents of a journal; counts those that what a task shows does not distinguish.

    Args:
        model: the model that they are for.
    """

    def __init__(self, model: Model) -> None:
        self._fields = model.content_fields
        self._known: set[tuple[str, ...]] = set()
        self._counts: dict[tuple[int, ...], Counter[tuple[str, ...]]] = {}

    def add(self, form: Mapping[str, str], image: str) -> None:
        """A job with these parameters and this image (its hash or URL, empty without one)."""
        self._known.add(self._content(form, image))
        self._counts.clear()

    def alike(self, form: Mapping[str, str], image: str, shown_fields: Collection[str], *, image_shown: bool) -> int:
        """How many contents equal this one in the text fields shown, and in the image if that is shown."""
        content = self._content(form, image)
        places = tuple(place for place, name in enumerate(self._fields) if name in shown_fields)
        places += (len(self._fields),) if image_shown else ()
        if places not in self._counts:
            self._counts[places] = Counter(tuple(known[place] for place in places) for known in self._known)
        return self._counts[places][tuple(content[place] for place in places)]

    def _content(self, form: Mapping[str, str], image: str) -> tuple[str, ...]:
        return (*(form[name] for name in self._fields), image)


def matches(case: Unanswered, task: Task, contents: Contents) -> bool:
    """Whether what the task shows singles out this attempt's content among all of the journal."""
    told = [name for name in case.model.text_fields if name in task.parameters]
    shows = [name for name in told if shown(task, name)]
    if case.model.prompt.wire not in shows or any(shown(task, name) != case.form[name] for name in told):
        return False
    image_fields = case.model.image_fields
    told_of_image = any(name in task.parameters for name in image_fields)
    if told_of_image and any(shown(task, name) for name in image_fields) != bool(case.image):
        return False
    return contents.alike(case.form, case.image, shows, image_shown=_shows_image(case, task)) <= 1


def _shows_image(case: Unanswered, task: Task) -> bool:
    field = case.model.image.wire if case.model.image is not None else ""
    url = case.form.get(field, "")
    return bool(url) and shown(task, field) == url


def judge(
    case: Unanswered,
    tasks: Collection[Task],
    *,
    complete: bool,
    now: float,
    settle: float,
    owned: Owners,
    echoed: Collection[str],
    contents: Contents,
    projects: Collection[str] = (),
    ended: float | None = None,
) -> Verdict:
    """What a listing says about one unanswered attempt.

    Args:
        case: the attempt; what it remembers of earlier listings is brought up to date.
        tasks: the listing.
        complete: whether it is known to hold every task of the window.
        now: when the listing began, on the clock of `closed_at`.
        settle: how long the service may take to list a task, in seconds.
        owned: the tasks that attempts of this journal own.
        echoed: fields that this service echoes verbatim.
        contents: all contents of this journal.
        projects: the projects that this key's own tasks showed; none if that isn't known.
        ended: when the listing ended, if that took its time: the next for absence begins `settle` later.
    """
    case.doubts = doubts(case, tasks, owned, echoed, projects)
    settled_at = case.closed_at + settle
    found = _ours(case, contents, owned, settled=now >= settled_at)
    if found is not None:
        return Adopt(found)
    if case.doubts:
        case.clear_since = None
        if now >= settled_at + settle:
            ids = ", ".join(sorted({task.id for task in case.doubts.values()}, key=task_number)[:5])
            return Quarantine(f"it can't be told from the service's answers whether one of its tasks is ours ({ids})")
        return Wait(settled_at if now < settled_at else settled_at + settle)
    if now < settled_at:
        return Wait(settled_at)
    if not complete:
        case.incomplete_since = now if case.incomplete_since is None else case.incomplete_since
        if now >= case.incomplete_since + INCOMPLETE_SECONDS:
            return Quarantine("the service's list of tasks could not be read to its end")
        return Wait(now + 1.0)
    case.incomplete_since = None
    if case.clear_since is None:
        case.clear_since = now if ended is None else ended
        return Wait(case.clear_since + settle)
    return Absent() if now >= case.clear_since + settle else Wait(case.clear_since + settle)


def doubts(
    case: Unanswered,
    tasks: Collection[Task],
    owned: Owners,
    echoed: Collection[str],
    projects: Collection[str] = (),
) -> dict[str, Task]:
    """The tasks that may be the attempt's own, those of earlier listings too, by key. Arguments as for `judge`."""
    listed = case.doubts | {key_of(task): task for task in tasks}
    return {
        key: task
        for key, task in listed.items()
        if is_candidate(case, task)
        and not owned.owns(task)
        and not differs(case.model, case.form, task, echoed)
        and not (projects and task.projectid and task.projectid not in projects)
    }


def _ours(case: Unanswered, contents: Contents, owned: Owners, *, settled: bool) -> Task | None:
    """The task that is the attempt's own beyond doubt."""
    found = [
        task
        for task in case.doubts.values()
        if task.id
        and not owned.has_id(task)
        and task_number(task.id) > case.high_id
        and (task_number(task.id) < NO_NUMBER or _in_window(case, task))
        and matches(case, task, contents)
    ]
    sure = [task for task in found if not case.image or _shows_image(case, task)]
    if sure:
        return min(sure, key=lambda task: task_number(task.id))
    return found[0] if settled and len(found) == 1 else None
