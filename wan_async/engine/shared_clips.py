"""Jobs of equal content are one clip: rendered and paid once, present under each name.

File first, row second, as for any clip: the link is durable before the journal records it. A run that dies in between
finds the same bytes under the name, and goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from wan_async import errors
from wan_async.domain import events, money
from wan_async.domain.attempt import Attempt, Clip
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.active_job import Work
from wan_async.engine.delivery import Delivery
from wan_async.engine.environment import Environment
from wan_async.engine.output_names import claim_name
from wan_async.outputs import sidecar
from wan_async.outputs.base import sidecar_name

OWN_REASONS = ("target", "image")
"""Kinds of failures that concern a job's own files, and not the clip that it shares."""

log: logging.Logger = logging.getLogger(__name__)


class SharedClips:
    """Gives jobs the clip of another job with the same content.

    Args:
        environment: the run.
        delivery: frees names.
        duplicates: the jobs, by the key of the job whose clip they get.
    """

    def __init__(
        self, environment: Environment, delivery: Delivery, duplicates: Mapping[str, Sequence[Enlisted]]
    ) -> None:
        self._environment = environment
        self._delivery = delivery
        self._waiting = {key: list(jobs) for key, jobs in duplicates.items()}
        self._promoted: deque[Work] = deque()

    async def add(self, key: str, jobs: Sequence[Enlisted]) -> None:
        """Further jobs get the clip of a job, at once if it is stored already."""
        self._waiting[key] = list(jobs)
        await self.share_stored()

    async def share_stored(self) -> None:
        """Shares the clips that are stored already."""
        for key, jobs in list(self._waiting.items()):
            found = await self._environment.journal.stored_at(key, jobs[0].content)
            if found is not None:
                await self.share(found[0])

    async def share(self, attempt: Attempt) -> None:
        """The attempt is stored: gives its clips to the jobs that wait for them.

        Raises:
            errors.Unusable: the disk or the journal refuses.
        """
        jobs = self._waiting.get(attempt.job, [])
        if not jobs or jobs[0].content != attempt.content:
            return
        del self._waiting[attempt.job]
        clips = await self._environment.journal.clips(attempt)
        for job in jobs:
            try:
                await self._share_with(job, attempt, clips)
            except errors.JobFailed as error:
                await self._fail(job, error, sticky=False)
            except errors.TryLater as error:
                log.warning("job %s gets its clip in the next run: %s", job.key, error.message)
                self._environment.shutdown.add_code(ExitCode.FAILURES)

    async def _share_with(self, job: Enlisted, source: Attempt, clips: Sequence[Clip]) -> None:
        environment, name = self._environment, job.planned.name
        await claim_name(environment, job)
        shared = Attempt(
            job=job.key,
            content=job.content,
            form=source.form,
            image=source.image,
            name=name,
            intent_at=environment.clock(),
            status=source.status,
            pexit=source.pexit,
        )
        files = []
        for clip in clips:
            suffix = PurePosixPath(clip.file).suffix
            wanted = f"{name}{suffix}" if clip.number == 0 else f"{name}-{clip.number + 1}{suffix}"
            if await environment.store.sha256(wanted) != clip.sha256:  # else an interrupted run has come so far
                wanted = await self._delivery.free_name(shared, wanted, is_recorded=False)
                await environment.store.link(clip.file, wanted)
            files.append(replace(clip, file=wanted, etag=""))
            environment.taken.add(wanted)
        described = replace(shared, task_id=source.task_id, cost=0)
        image = environment.images.of_job(job.planned.job)
        made = sidecar.of_attempt(environment.api.model, described, files, image, environment.clock())
        text = sidecar.json_text(made)
        await environment.store.replace(sidecar_name(files[0].file), text)
        await environment.journal.share(shared, files, environment.clock())
        environment.events.tell(
            events.Stored,
            Work(job.key, job, shared),
            file=files[0].file,
            bytes=files[0].bytes or 0,
            sha256=files[0].sha256 or "",
            cost_usd=money.usd(0),
            seconds=0.0,
        )

    async def failed(self, key: str, error: errors.JobFailed, *, sticky: bool) -> None:
        """A job has failed: so have those that wait for its clip, unless the reason was its own name or image file."""
        jobs = self._waiting.pop(key, [])
        if jobs and error.kind in OWN_REASONS:
            first, *others = jobs
            self._promoted.append(Work(first.key, first))
            if others:
                self._waiting[first.key] = others
            return
        for job in jobs:
            same = errors.JobFailed(f"the same clip as {key}, which failed: {error.message}", kind=error.kind)
            await self._fail(job, same, sticky=sticky)

    def next_promoted(self) -> Work | None:
        """A job that is to be rendered itself, since the one whose clip it was to get could not be."""
        return self._promoted.popleft() if self._promoted else None

    async def _fail(self, job: Enlisted, error: errors.JobFailed, *, sticky: bool) -> None:
        await self._environment.journal.job_failed(job.key, error.kind, error.message, sticky=sticky)
        self._environment.events.tell(
            events.Failed,
            Work(job.key, job),
            kind=error.kind,
            message=error.message,
            task_id=None,
            billed_usd=None,
        )

    def report_left(self) -> None:
        """Says which jobs have no clip because the job that it is of has none."""
        for key, jobs in self._waiting.items():
            names = ", ".join(job.key for job in jobs[:5]) + (" ..." if len(jobs) > 5 else "")
            log.warning("job %s: the same clip was already submitted as %s, which has none yet", names, key)
