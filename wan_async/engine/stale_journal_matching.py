"""Comparison of tasks that no attempt owns with the jobs to be submitted: would a stale journal pay again? No I/O."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from wan_async.domain.model import Model
from wan_async.domain.remote_task import Ending, TaskDetail, ending
from wan_async.engine.matching import Unanswered, echo_of, is_candidate, shown
from wan_async.engine.task_listing import task_number

NO_CLIP = (Ending.FAILED, Ending.CANCELLED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job to be submitted.

    Attributes:
        key: its key in the journal.
        form: the parameters that would be sent; the image's URL in it is ignored.
        image: the image's hash or URL as in the content, empty without one.
        chosen: whether this run submits it.
    """

    key: str
    form: Mapping[str, str]
    image: str
    chosen: bool = True


@dataclass(slots=True)
class Unowned:
    """Tasks without an owner, by what they mean for the jobs to be submitted.

    Attributes:
        equal: tasks that equal one job, with its key; each job once, with a task that has not failed if there is one.
        ambiguous: tasks that equal several jobs of different content, with their keys.
        surplus: further tasks that equal a job of `equal`, with its key.
        silent: tasks that don't show the prompt and can't be compared.
    """

    equal: list[tuple[TaskDetail, str]] = field(default_factory=list)
    ambiguous: list[tuple[TaskDetail, list[str]]] = field(default_factory=list)
    surplus: list[tuple[TaskDetail, str]] = field(default_factory=list)
    silent: list[TaskDetail] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Whether there is any such task."""
        return bool(self.equal or self.ambiguous or self.surplus or self.silent)


class _WantedIndex:
    """Index of jobs by the fields that a task shows."""

    def __init__(self, model: Model, jobs: Sequence[Wanted], urls: Mapping[str, str], echoed: Collection[str]) -> None:
        self._model = model
        self._jobs = jobs
        self._image_of = {url: image for image, url in urls.items()}
        self._echoed = echoed
        self._by_text: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, list[Wanted]]]] = {}

    def equal_to(self, task: TaskDetail) -> list[Wanted]:
        """The jobs that equal the task in all that it shows."""
        fields = tuple(name for name in self._model.text_fields if shown(task, name))
        if fields not in self._by_text:
            self._by_text[fields] = {}
            for job in self._jobs:
                texts = tuple(normalised(job.form[name]) for name in fields)
                self._by_text[fields].setdefault(texts, {}).setdefault(job.image, []).append(job)
        images = self._by_text[fields].get(tuple(normalised(shown(task, name)) for name in fields), {})
        url = shown_image(self._model, task)
        if (image := self._image_of.get(url)) is not None:
            return images.get(image, [])
        may_be = [jobs for image, jobs in images.items() if not url or _may_lie_at(self._model, image, self._echoed)]
        return [job for jobs in may_be for job in jobs]


def unowned(
    model: Model,
    tasks: Collection[TaskDetail],
    jobs: Sequence[Wanted],
    unanswered: Sequence[Unanswered],
    *,
    urls: Mapping[str, str],
    echoed: Collection[str],
) -> Unowned:
    """Compare tasks that no attempt owns with the jobs to be submitted.

    Fields that are empty or not shown are not compared. Tasks that may belong to an unanswered attempt are left to
    `matching.judge`, one for each attempt.

    Args:
        model: the model of the tasks and the jobs.
        tasks: the account's tasks that no attempt owns.
        jobs: the jobs to be submitted, in batch order.
        unanswered: attempts whose Run was not answered.
        urls: the URLs of uploaded images, by the images' identity in contents (`sha256:...`).
        echoed: keys (see `matching.echo_of`) of what this service echoes verbatim.
    """
    found, waiting, taken = Unowned(), list(unanswered), set[str]()
    known = {**urls, **{job.image: job.image.removeprefix("url:") for job in jobs if job.image.startswith("url:")}}
    index = _WantedIndex(model, jobs, known, echoed)
    for task in sorted(tasks, key=lambda task: (ending(task) in NO_CLIP, task_number(task.id))):
        own = next((case for case in waiting if is_candidate(case, task) and _may_be(case, task, known, echoed)), None)
        if own is not None:
            waiting.remove(own)
        elif not shown(task, model.prompt.wire):
            found.silent.append(task)
        elif equal := index.equal_to(task):
            if len({_content_of(model, job) for job in equal}) > 1:
                found.ambiguous.append((task, [job.key for job in equal]))
                continue
            free = [job for job in equal if job.key not in taken]
            if not free:
                found.surplus.append((task, equal[0].key))
                continue
            key = next((job for job in free if job.chosen), free[0]).key
            taken.add(key)
            found.equal.append((task, key))
    return found


def _may_be(case: Unanswered, task: TaskDetail, urls: Mapping[str, str], echoed: Collection[str]) -> bool:
    model = case.model
    if not shown(task, model.prompt.wire):
        return True
    texts = ((shown(task, name), case.form[name]) for name in model.text_fields)
    if any(seen and normalised(seen) != normalised(sent) for seen, sent in texts):
        return False
    url = shown_image(model, task)
    if not url or url == urls.get(case.image):
        return True
    return url not in urls.values() and _may_lie_at(model, case.image, echoed)


def shown_image(model: Model, task: TaskDetail) -> str:
    """The URL of a task's image as the service shows it, empty if it doesn't."""
    return next((seen for name in model.image_fields if (seen := shown(task, name))), "")


def _may_lie_at(model: Model, image: str, echoed: Collection[str]) -> bool:
    """Whether an unknown URL may be an image's: one may be uploaded twice, and a service may rewrite URLs."""
    if not image or model.image is None:
        return False
    return not (image.startswith("url:") and echo_of(model, model.image.wire, image.removeprefix("url:")) in echoed)


def _content_of(model: Model, job: Wanted) -> tuple[str, ...]:
    return (*(job.form[name] for name in model.content_fields), job.image)


def normalised(text: str) -> str:
    """Normalise what a service may change in a text: white space, HTML entities, the format of a number."""
    plain = " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())
    try:
        return f"{float(plain):.17g}"
    except ValueError:
        return plain
