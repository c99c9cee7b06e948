"""What a command does with an object store outside of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import SizeOf
from wan_async.domain.batch import PlannedJob
from wan_async.domain.naming import folded
from wan_async.engine.environment import PARTS
from wan_async.errors import Problem
from wan_async.journal.base import FILE, Home
from wan_async.journal.journal_location import database_of, in_database, local_home
from wan_async.journal.reports import clip_names, identity_of
from wan_async.output_locations import OWNER, Location, OutputUrl, Owner
from wan_async.outputs.base import Store
from wan_async.outputs.stores import store_for


def target_problems(planned: Sequence[PlannedJob], output: OutputUrl, home: Home) -> list[Problem]:
    """The objects that have the names of a batch's clips, and that its journal does not know. Blocking.

    Args:
        planned: the jobs.
        output: where the clips go.
        home: where the journal is kept.

    Raises:
        errors.Unusable: the clips there belong to another journal, or the store or the journal can't be read.
    """
    existing = {folded(name): name for name in anyio.run(_names, output, home)}
    known = clip_names(home) or frozenset()
    return [
        Problem(
            one.where or f"jobs[{one.index}]",
            f"{output / existing[place]} exists and is not ours: give the job another id, or choose another -o",
        )
        for one in planned
        if (place := f"{folded(one.name)}.mp4") in existing
        and folded(one.name) not in known
        and f"{folded(one.name)}.json" not in existing  # else a run looks whose it is: of a lost journal, or not ours
    ]


async def _names(output: OutputUrl, home: Home) -> set[str]:
    return await (await _store_of(output, home)).names()


async def _store_of(output: Location, home: Home) -> Store:
    """The store of a journal's clips."""

    async def identity() -> str | None:
        return identity_of(home)

    store = store_for(output, parts=local_home(home, output) / PARTS)
    await store.claim(identity, make=False, database=database_of(home))
    return store


def refuse_other_journal(output: Location, home: Home) -> None:
    """Refuses a journal that the clips of an output don't belong to. Blocking.

    Raises:
        errors.WanError: it is another, or the store can't be asked.
    """
    anyio.run(_store_of, output, home)


def refuse_foreign(output: OutputUrl, home: Path) -> None:
    """Refuses an object store whose clips belong to a journal in a database, where there is none in its folder.

    Raises:
        errors.Unusable: they do; names the database.
    """
    if (home / FILE).exists():
        return
    content: bytes | None = None
    with suppress(errors.WanError):  # a store that can't be asked is reported by who needs it
        content = anyio.run(store_for(output, parts=home / PARTS).read, OWNER)
    if content is not None and (owner := Owner.loads(content)).database is not None:
        raise errors.Unusable(in_database(output, owner))


async def sizes(output: Location, home: Home) -> SizeOf:
    """The sizes of the files of a folder, or of an object store.

    Raises:
        errors.WanError: the store can't be asked, or belongs to another journal.
    """
    return await (await _store_of(output, home)).sizes()


async def replace_text(output: OutputUrl, home: Home, name: str, texts: Iterable[str]) -> None:
    """Put a text file beside the clips of a journal.

    Raises:
        errors.Unusable: the clips belong to another journal, or the store refuses.
        errors.TryLater: the store can't be reached.
    """
    await (await _store_of(output, home)).replace(name, texts)
