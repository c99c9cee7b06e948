"""Takes of a job: the plain name belongs to the take of the present content.

If an edit is undone, the earlier take is current again: it gets the plain name, and the other one the number. Each step
can be interrupted and made again: a file gets its new name, the journal records that, the old name goes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wan_async import errors
from wan_async.batch.plan import plain_name
from wan_async.domain.attempt import Attempt, Clip
from wan_async.engine.environment import Environment
from wan_async.outputs.base import sidecar_name

log: logging.Logger = logging.getLogger(__name__)


async def give_plain_names(environment: Environment, numbered: Sequence[tuple[Attempt, Sequence[Clip]]]) -> None:
    """Gives current takes their plain names; what can't be renamed keeps its name, which is logged.

    Args:
        environment: the run.
        numbered: stored attempts at the present content of their job, with their clips.

    Raises:
        errors.Unusable: the disk or the journal refuses.
    """
    for attempt, clips in numbered:
        for clip in clips:
            wanted = plain_name(attempt, clips, clip.number)
            if clip.file == wanted:
                continue
            try:
                if await _free(environment, wanted, clip):
                    await _rename(environment, clip.file, wanted)
            except (errors.JobFailed, errors.TryLater) as error:
                log.warning("job %s: its clip is still called %s: %s", attempt.job, clip.file, error.message)


async def _free(environment: Environment, wanted: str, clip: Clip) -> bool:
    """Takes the plain name from another take; whether it is free now."""
    journal, store = environment.journal, environment.store
    if not await store.exists(wanted):
        return True
    found = await store.sha256(wanted)
    if found is not None and found == await journal.hash_of(wanted):
        copy = await store.find_copy(wanted)
        if copy is not None and await journal.file_known(copy) is not None:
            copy = None  # another take, whose bytes are the same
        await _rename(environment, wanted, copy or await store.free_name(wanted))
        return True
    if found == clip.sha256:  # an interrupted run has come so far, or the journal was restored
        await journal.renamed(clip.file, wanted)
        await store.remove(clip.file, sidecar_name(clip.file))
        return False
    if await store.find_copy(wanted) is not None:  # the other take was renamed, and its old name not removed
        await store.remove(wanted)
        return True
    return False


async def _rename(environment: Environment, name: str, new: str) -> None:
    await environment.store.copy(name, new)
    await environment.journal.renamed(name, new)
    await environment.store.remove(name)
