"""Reconciliation of unanswered Runs, the decision: adopt a listed task, prove that there is none, or quarantine.

An attempt is unanswered if its Run was sent and no usable answer came. The Run made one task or none, and the service
has no call that says which. The only evidence is Task/List: newest first, in pages that shift while tasks are added,
with `parameters` that may be empty or rewritten, and where a new task may be missing for a while. Ids are ordered,
clocks are not synchronised. The sequences of events that would pay twice or adopt a wrong clip, each with the rule that
prevents it:

1.  The task exists but isn't listed yet; resubmitting pays twice. -> Absence needs two complete listings: the first at
    least `settle` seconds after the connection closed (after a restart: after the start), the second `settle` seconds
    after the end of the first.
2.  A page shifts between two requests, and the task is on neither. -> Consecutive pages overlap by a known id, or the
    listing restarts; if the service returns fewer tasks than requested, only the offset of the next page changes.
3.  The listing ends above the task. -> A listing is complete only at the end of the list, or below both the highest
    known id and the time window.
4.  The service's clock differs from ours, and the time window misses the task. -> A higher id is sufficient to make a
    task a candidate.
5.  Ids are out of order. -> A creation time within ten minutes is sufficient, too.
6.  The task belongs to another attempt, which got its answer or adopted it. -> A task has one owner: ids are unique in
    the journal, which rejects a second row.
7.  Two attempts at the same content are unanswered and there is one task. -> At most one attempt of a content is
    between intent and accepted (the scheduler holds back jobs of equal content), so there is never a second.
8.  Another program's task looks like ours because the service echoes `{}`, or because only the prompt is equal. -> A
    match shows the prompt, equals the attempt in every text field shown, and has an image exactly if the attempt has
    one. A candidate that doesn't match is no proof of absence either: quarantine.
9.  The service rewrites a field (an uploaded image), so that our own task seems to differ; resubmitting pays twice. ->
    A difference counts only in fields that this journal has seen echoed verbatim, and never otherwise.
10. Two jobs differ in nothing that is echoed (one prompt for all, inline images): the clip of one would be adopted by
    the other. -> A match must single out one content of the journal; else quarantine.
11. A task seems foreign only because its owner is determined later, or the reverse. -> Every listing is evaluated from
    scratch with the owners of that moment; one listing with a doubtful task restarts the proof of absence.
12. The process dies between a proof and its commit, or between a Run and its answer. -> The state of a proof is kept in
    memory only: after a restart it begins again, and an intent without an answer counts as unanswered.
13. The list shifts by almost a page, so that the next page has nothing new and looks like the end. -> The end of the
    list is a page with the last known task alone, followed by nothing.
14. Tasks are deleted during a listing, so that the next page is empty and looks like the end. -> An empty page confirms
    an end that was reached before, and nothing else.
15. The service answers "There is no task" although there was one before the Run (a filter, a replica, a fault). -> An
    empty list is complete only if no task was ever known.
16. The list isn't in the requested order, and old tasks are above ours. -> Only a page in descending order can be below
    the window.
17. A field that is normally echoed verbatim is rewritten in this value (`&amp;`, cut, a lost emoji, 42.0), or empty
    while the task is young, or an uploaded image's URL is rewritten where others are not. -> A difference counts only
    between two non-empty values that differ in their letters and digits; for URLs the echo is learned per host.
18. The service shows an empty field for an uploaded file or a negative prompt, so that the task of one job looks like
    that of a job without them. -> An empty field is no evidence.
19. Another program's task has our text and another image, and is listed before ours (if the service rewrites images,
    both look alike). -> If the image isn't shown as sent, a match is accepted only after `settle`, and only if it is
    the only one.
20. A task that may be ours is listed once and missing in later listings. -> A doubt is kept until its task has an owner
    or shows a difference, whether or not it is still listed.
21. A task is listed without an id. -> It is a candidate like any other; only a task with an id is adopted.
22. Ids aren't numbers, so that an older task of the same content seems newer than the Run. -> Such a task is adopted
    only if its creation time is within the window.
23. An attempt's task is known by its token alone, and an attempt of equal content adopts it. -> A known token makes an
    owner, too.
24. No listing is ever complete (tasks are added faster than pages are read, a page limit of one task, a service that
    refuses to list). -> Without proof there is no second Run: quarantine after `INCOMPLETE_SECONDS`.
25. The job was edited while its attempt was open: once absence is proven, or the render fails, the new content would be
    submitted for it and for the job itself. -> An attempt is repeated only for a job of the same content (`scheduler`).
26. The run is stopped after `--resubmit-unknown` has abandoned an attempt and before it is resubmitted: the next run
    would resubmit it without being asked. -> Nothing is abandoned once the run stops, nor what `--only` excludes.
27. With a team's key the list has teammates' tasks, one of which equals ours. -> A task with another project id than
    this key's own tasks is foreign; after a key rotation the project ids are learned again.
28. The service's ids restart, and the task of the unanswered Run has the id of an older attempt's task. -> The same id
    with another token is another task; it is a candidate, and never adopted.
29. The task of one job looks like a cut echo of another's, whose prompt begins alike (`scene 1`, `scene 12`). -> A
    doubt about a task that equals another unanswered attempt is no verdict until that attempt has adopted it.

Known limits. If a process dies between abandoning an attempt as requested and the new intent, the next run resubmits it
without asking again. If our Run made no task, another program's task with our text and an image that isn't shown is
adopted; its content differs in the image at most.
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
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine.task_listing import NO_NUMBER, Owners, Pages, key_of, task_number


def pages_for(cases: Collection[Unanswered]) -> Pages:
    """Make an empty listing that is complete only below the window of all these attempts."""
    return Pages(
        floor_id=min(case.high_id for case in cases),
        floor_time=min(case.intent_at for case in cases) - WINDOW_SECONDS,
    )


WINDOW_SECONDS = 600.0
"""Largest difference between intent and creation time that makes a task a candidate; covers clock skew."""
INCOMPLETE_SECONDS = 600.0
"""How long listings may be incomplete before the attempt is quarantined."""


@dataclass(slots=True)
class Unanswered:
    """An attempt whose Run was not answered.

    Attributes:
        model: the model that was run.
        attempt: its number in the journal.
        form: the parameters exactly as sent.
        image: the image's hash or URL as in the content, empty without one.
        high_id: the highest task id known when the intent was committed.
        intent_at: when the intent was committed, in unix seconds.
        closed_at: when its connection closed, or this process started; monotonic clock, in seconds.
        clear_since: when the first of the current complete listings without a doubtful task ended; monotonic clock.
        incomplete_since: when the first of the current incomplete listings began; monotonic clock.
        doubts: tasks that were listed at some time and may be ours, by key.
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
    doubts: dict[str, TaskDetail] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adopt:
    """The task belongs to the attempt."""

    task: TaskDetail


@dataclass(frozen=True, slots=True)
class Absent:
    """The Run made no task: it may be resubmitted."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Neither can be established."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Too early to decide: list again `at` this time (monotonic clock, in seconds)."""

    at: float


Final = Adopt | Absent | Quarantine
Verdict = Final | Wait


def is_candidate(case: Unanswered, task: TaskDetail) -> bool:
    """Whether the task may be the result of the attempt's Run, by its id or its creation time."""
    return task_number(task.id) > case.high_id or in_window(case, task)


def in_window(case: Unanswered, task: TaskDetail) -> bool:
    """Whether the task was created about when the Run was sent."""
    return task.createtime is not None and abs(task.createtime - case.intent_at) <= WINDOW_SECONDS


def differs(model: Model, form: Mapping[str, str], task: TaskDetail, echoed: Collection[str]) -> bool:
    """Whether the task shows another value in a field that this service echoes verbatim."""
    return any(
        bool(value) and bool(seen := shown(task, name)) and not _same(value, seen)
        for name, value in form.items()
        if name in task.parameters and echo_of(model, name, value) in echoed
    )


def shown(task: TaskDetail, name: str) -> str:
    """The service's echo of a parameter as text; empty if there is none."""
    value = task.parameters.get(name)
    return str(value) if isinstance(value, str | int | float) else ""


def echo_of(model: Model, name: str, value: str) -> str:
    """The key under which is learned whether such a value is echoed verbatim: the field, for URLs with their host."""
    if name not in model.image_fields:
        return name
    try:
        return f"{name}@{urlsplit(value).netloc}"
    except ValueError:
        return name


_CUT = 12
"""A common prefix of this many letters and digits may be a text that was cut, or a URL without its query."""


def _same(sent: str, seen: str) -> bool:
    """Whether the service may have rewritten one text to the other."""
    try:
        if float(sent) == float(seen):
            return True
    except ValueError:
        pass
    short, long = sorted((_plain(sent), _plain(seen)), key=len)
    return short == long or (len(short) >= _CUT and long.startswith(short))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", html.unescape(re.sub(r"&#?\w{0,6}$", "", text)))  # a cut entity at the end
    return "".join(letter for letter in text if letter.isascii() and letter.isalnum()).lower()


def verbatim(model: Model, form: Mapping[str, str], task: TaskDetail) -> dict[str, bool]:
    """What a task of our own shows about the echo: the fields sent with a value and echoed, and whether verbatim.

    An empty value that is echoed as empty is no evidence.
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
        """Add a content.

        Args:
            form: its parameters as sent. One of another model is ignored.
            image: its image's hash or URL, empty without one.
        """
        if form.keys() >= set(self._fields):
            self._known.add(self._content(form, image))
            self._counts.clear()

    def alike(self, form: Mapping[str, str], image: str, shown_fields: Collection[str], *, image_shown: bool) -> int:
        """Count the contents that equal this one in the text fields shown, and in the image if that is shown."""
        content = self._content(form, image)
        places = tuple(place for place, name in enumerate(self._fields) if name in shown_fields)
        places += (len(self._fields),) if image_shown else ()
        if places not in self._counts:
            self._counts[places] = Counter(tuple(known[place] for place in places) for known in self._known)
        return self._counts[places][tuple(content[place] for place in places)]

    def _content(self, form: Mapping[str, str], image: str) -> tuple[str, ...]:
        return (*(form[name] for name in self._fields), image)


def matches(case: Unanswered, task: TaskDetail, contents: Contents) -> bool:
    """Whether the task's echo equals this attempt's content, and no other of the journal."""
    echoed = [name for name in case.model.text_fields if name in task.parameters]
    shows = [name for name in echoed if shown(task, name)]
    if case.model.prompt.wire not in shows or any(shown(task, name) != case.form[name] for name in echoed):
        return False
    image_fields = case.model.image_fields
    shows_image_field = any(name in task.parameters for name in image_fields)
    if shows_image_field and any(shown(task, name) for name in image_fields) != bool(case.image):
        return False
    return contents.alike(case.form, case.image, shows, image_shown=_shows_image(case, task)) <= 1


def _shows_image(case: Unanswered, task: TaskDetail) -> bool:
    field = case.model.image.wire if case.model.image is not None else ""
    url = case.form.get(field, "")
    return bool(url) and shown(task, field) == url


def judge(
    case: Unanswered,
    tasks: Collection[TaskDetail],
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
    """Decide about one unanswered attempt by a listing.

    Args:
        case: the attempt; its record of earlier listings is updated.
        tasks: the listed tasks.
        complete: whether the listing is known to have every task of the window.
        now: when the listing began, on the clock of `closed_at`.
        settle: how long the service may take to list a new task, in seconds.
        owned: the tasks that attempts of this journal own.
        echoed: keys (see `echo_of`) of what this service echoes verbatim.
        contents: all contents of this journal.
        projects: the project ids that this key's own tasks showed; empty if unknown.
        ended: when the listing ended, if later than `now`; the second listing begins `settle` seconds after it.

    Returns:
        What to do: adopt a task, resubmit, quarantine, or list again later.
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
            return Quarantine(f"the service's answers don't show whether one of its tasks ({ids}) is this job's")
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
    tasks: Collection[TaskDetail],
    owned: Owners,
    echoed: Collection[str],
    projects: Collection[str] = (),
) -> dict[str, TaskDetail]:
    """The tasks of this and earlier listings that may be the attempt's, by key. Arguments as for `judge`."""
    listed = case.doubts | {key_of(task): task for task in tasks}
    return {
        key: task
        for key, task in listed.items()
        if is_candidate(case, task)
        and not owned.owns(task)
        and not differs(case.model, case.form, task, echoed)
        and not (projects and task.projectid and task.projectid not in projects)
    }


def _ours(case: Unanswered, contents: Contents, owned: Owners, *, settled: bool) -> TaskDetail | None:
    """The task that certainly is the attempt's, if there is one."""
    found = [
        task
        for task in case.doubts.values()
        if task.id
        and not owned.has_id(task)
        and task_number(task.id) > case.high_id
        and (task_number(task.id) < NO_NUMBER or in_window(case, task))
        and matches(case, task, contents)
    ]
    sure = [task for task in found if not case.image or _shows_image(case, task)]
    if sure:
        return min(sure, key=lambda task: task_number(task.id))
    return found[0] if settled and len(found) == 1 else None
