"""Read-only reports of a journal for `status`, `plan` and others, also while a run writes it."""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, TypeVar

from wan_async.domain.attempt import Money, Unassigned
from wan_async.domain.lifecycle import OPEN, RECOVERABLE, State
from wan_async.domain.naming import folded
from wan_async.errors import Unusable
from wan_async.journal import start_counter
from wan_async.journal.base import FILE, PREPARES, DatabaseHome, Home
from wan_async.journal.further_takes import unnamed_takes
from wan_async.journal.image_paths import COPY
from wan_async.journal.journal_location import home_of, homes_of, trial_of
from wan_async.journal.queries import CLOCK_SECONDS, DECIDING, RESULTS, UNASSIGNED, marks_for, unassigned_of
from wan_async.journal.read_only import reading
from wan_async.journal.sql_interface import Database
from wan_async.journal.sqlite_connection import refuse_link
from wan_async.output_locations import Location

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """The state of a job of the batch, with the facts of the attempt that decides it. `cost` is in micro-dollars."""

    job: str
    state: str
    file: str | None
    task_id: str | None
    cost: int | None
    sha256: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """A snapshot of a journal.

    Attributes:
        results: the state of each job of the batch, in batch order.
        contents: the content that each job was last enrolled with.
        names: the output name of each job, without its extension.
        attempts: job, content and name of each attempt, and whether a job of equal content may take it over; oldest
            first.
        owners: the jobs that own a name under which they have an attempt, by the folded name.
        money: settled and reserved, over the journal's lifetime.
        strays: unfinished attempts whose jobs the batch no longer names.
        images: hashes of images by path.
        unassigned: tasks that may be those of quarantined attempts, oldest first, whether or not one owns them by now.
        prepares: whether the last run uploaded upright copies of images that need it.
        of_workers: what is kept for workers, and of them, by its name.
    """

    results: list[Result]
    contents: dict[str, str]
    names: dict[str, str]
    attempts: list[tuple[str, str, str, bool]]
    owners: dict[str, str]
    money: Money
    strays: int
    images: dict[str, tuple[int, int, str]]
    unassigned: list[Unassigned]
    prepares: bool = False
    of_workers: dict[str, str] = field(default_factory=dict)


def read_all(output: Location, read: Callable[[Home], T | None], journal: Home | None = None) -> list[tuple[Home, T]]:
    """What `read` finds in each journal of an output, with the journal's home.

    Args:
        output: the output.
        read: reads the journal in a home.
        journal: where the journal is kept, if that was named.

    Raises:
        Unusable: there is no journal, or one can't be read.
    """
    homes = [journal] if isinstance(journal, DatabaseHome) else [*homes_of(output, journal)]
    found = [(home, known) for home in homes if (known := read(home)) is not None]
    if not found and isinstance(journal, DatabaseHome):
        raise Unusable(f"there is no journal of {output} in this database: `status --journal URL` lists its outputs")
    if not found and isinstance(output, Path):
        trial = trial_of(output)
        hint = f"there is one in {trial}" if home_of(trial).is_dir() else "is it the output folder of a run?"
        raise Unusable(f"there is no journal in {output}: {hint}")
    if not found:
        raise Unusable(f"there is no journal of {output} in {homes[0]}: name the folder of its journal with --journal")
    return found


def read_results(home: Home) -> Iterator[Result]:
    """Yields the state of each job of the batch in batch order, without holding all of them in memory.

    Does not check for damage: the caller has the journal open.

    Raises:
        Unusable: it can't be read.
    """
    with reading(home, verify=False) as db:
        if db is None:
            raise Unusable(f"there is no journal in {home}: is it the output folder of a run?")
        yield from results_in(db)


def results_in(db: Database) -> Iterator[Result]:
    """Yields the same from an open journal."""
    for row in db.execute(RESULTS):
        yield Result(*row)


@contextmanager
def scratch_copy(home: Path) -> Iterator[Path | None]:
    """A copy of the journal in `home`, in a temporary folder, that may be changed; None if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="wan-async-") as folder:
        with reading(home, verify=False) as db:
            if db is not None:
                assert isinstance(db, sqlite3.Connection)  # that of a file
                starts = db.execute("SELECT value FROM meta WHERE name = 'starts'").fetchone()
                try:
                    with closing(sqlite3.connect(Path(folder) / FILE)) as copy:
                        db.backup(copy)
                    if starts is not None:  # so that the copy doesn't seem to be older than its folder
                        start_counter.write(Path(folder), int(starts[0]))
                except (sqlite3.OperationalError, OSError) as error:
                    raise Unusable(f"no copy of the journal fits into {folder} ({error}): set TMPDIR") from None
        yield None if db is None else Path(folder)


def report(home: Home) -> Report | None:
    """A snapshot of the journal in `home`; None if there is none.

    Raises:
        Unusable: it can't be read.
    """
    strays = (
        f"SELECT count(*) FROM attempts a WHERE state IN ({', '.join('?' * len(OPEN))}) AND NOT EXISTS "
        "(SELECT 1 FROM jobs j WHERE j.key = a.job AND j.position IS NOT NULL)"
    )
    attempts = f"SELECT job, content, name, state IN ({marks_for(RECOVERABLE)}) FROM attempts ORDER BY id"
    owners = (
        "SELECT folded, job FROM names n WHERE EXISTS "
        "(SELECT 1 FROM attempts a WHERE a.job = n.job AND a.name = n.name)"
    )
    with reading(home) as db:
        if db is None:
            return None
        return Report(
            [Result(*row) for row in db.execute(RESULTS)],
            dict(db.execute("SELECT key, content FROM jobs WHERE position IS NOT NULL")),
            dict(db.execute("SELECT key, name FROM jobs WHERE position IS NOT NULL")),
            db.execute(attempts, RECOVERABLE).fetchall(),
            dict(db.execute(owners)),
            Money(*db.execute("SELECT settled, reserved FROM money").fetchone()),
            db.execute(strays, OPEN).fetchone()[0],
            {path: (size, mtime, sha) for path, size, mtime, sha in db.execute("SELECT * FROM images")},
            [unassigned_of(row) for row in db.execute(UNASSIGNED)],
            db.execute("SELECT 1 FROM meta WHERE name = ?", (PREPARES,)).fetchone() is not None,
            dict(db.execute("SELECT name, value FROM meta WHERE substr(name, 1, 8) = 'cluster_'")),
        )


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was stored.

    Attributes:
        job: the key of its job.
        number: its number among the files of its attempt, from 0.
        file: its path in the output folder.
        bytes: its size.
        is_current: whether it is of the present content of a job of the batch.
        is_further: whether it is of a further take of such a job (`again`). If it is neither, it is an earlier take.
    """

    job: str
    number: int
    file: str
    bytes: int
    is_current: bool
    is_further: bool


def stored_files(home: Home) -> list[StoredFile]:
    """Every file that was stored by the journal in `home`, oldest first; none if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    query = (
        "SELECT a.job, c.number, c.file, c.bytes, EXISTS (SELECT 1 FROM jobs j WHERE j.key = a.job "
        "AND j.content = a.content AND j.position IS NOT NULL) "
        "AND NOT EXISTS (SELECT 1 FROM attempts b WHERE b.job = a.job "
        "AND b.content = a.content AND b.state = 'stored' AND b.id > a.id), "
        "EXISTS (SELECT 1 FROM jobs j WHERE j.key = a.job AND j.content = a.content) "
        "FROM attempts a JOIN clips c ON c.attempt = a.id WHERE a.state = 'stored' ORDER BY a.id, c.number"
    )
    with reading(home, verify=False) as db:
        if db is None:
            return []
        takes = unnamed_takes(db)
        return [
            StoredFile(job, number, file, size, bool(current), bool(present) and job in takes)
            for job, number, file, size, current, present in db.execute(query)
        ]


def clip_names(home: Home) -> frozenset[str] | None:
    """The folded output names of the jobs with a clip that is checked or stored; None if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    query = "SELECT DISTINCT a.name FROM attempts a JOIN clips c ON c.attempt = a.id WHERE c.file != ''"
    with reading(home, verify=False) as db:
        return None if db is None else frozenset(folded(name) for (name,) in db.execute(query))


def identity_of(home: Home) -> str | None:
    """The identity of the journal in `home`, as `Journal.identity`; None if it has none yet, or there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    with reading(home, verify=False) as db:
        found = None if db is None else db.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
    return found and str(found[0])


def doubt(home: Path) -> str | None:
    """Why the journal in `home` may be stale (lack tasks that were paid for), in words; None if nothing shows that.

    Raises:
        Unusable: it can't be read.
    """
    names = "('starts', 'starts_written')"
    with reading(home, verify=False) as db:
        kept = {} if db is None else dict(db.execute(f"SELECT name, value FROM meta WHERE name IN {names}"))
    refuse_link(home / start_counter.FILE)
    return start_counter.difference(
        int(kept.get("starts", 0)), int(kept.get("starts_written", 0)), start_counter.read(home)
    )


@dataclass(frozen=True, slots=True)
class Owned:
    """The remote tasks that a journal's attempts own.

    Attributes:
        names: their ids and tokens.
        since: unix seconds; no task of the journal is older (allowing for clocks that differ).
    """

    names: set[str]
    since: float


def owned_tasks(home: Home) -> Owned | None:
    """The tasks that the journal in `home` owns; None if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    with reading(home) as db:
        if db is None:
            return None
        names: set[str] = set()
        for row in db.execute("SELECT task_id, token FROM attempts"):
            names.update(name for name in row if name)
        first = db.execute("SELECT min(intent_at) FROM attempts").fetchone()[0]
    return Owned(names, math.inf if first is None else first - CLOCK_SECONDS)


_GALLERY_ITEMS = f"""
WITH results (job, state, file, task_id, cost, sha256, error) AS ({RESULTS}),
current AS (
    SELECT j.position, 0 AS earlier, r.job, r.state, r.task_id, r.cost, r.error, j.name, j.spec,
           ({DECIDING}) AS attempt
    FROM results r JOIN jobs j ON j.key = r.job
),
items AS (
    SELECT * FROM current UNION ALL
    SELECT k.position, 1, a.job, 'earlier', a.task_id, a.cost, NULL, a.name, j.spec, a.id
    FROM attempts a LEFT JOIN jobs j ON j.key = a.job AND j.content = a.content LEFT JOIN jobs k ON k.key = a.job
    WHERE a.state = 'stored' AND a.id NOT IN (SELECT attempt FROM current WHERE attempt IS NOT NULL)
)
"""
_GALLERY_ROWS = f"""
{_GALLERY_ITEMS}
SELECT i.job, i.attempt, i.state, i.task_id, i.cost, i.error, i.name, i.spec,
       a.form, a.image, a.ended_at - a.accepted_at, a.stored_at, c.file, c.bytes, c.content_type, c.sha256
FROM items i LEFT JOIN attempts a ON a.id = i.attempt
LEFT JOIN clips c ON i.state IN ('stored', 'earlier') AND c.attempt = i.attempt
ORDER BY i.position IS NULL, i.position, i.earlier, i.attempt, c.number
"""
_GALLERY_STATES = f"{_GALLERY_ITEMS} SELECT state, count(*) FROM items GROUP BY state"
_GALLERY_UNNAMED = f"""
{_GALLERY_ITEMS} SELECT job, count(*) FROM items WHERE state = 'earlier' AND spec IS NOT NULL GROUP BY job
"""


@dataclass(frozen=True, slots=True)
class GalleryClip:
    """An output file of an item.

    Attributes:
        file: its path in the output folder.
        bytes: its size.
        content_type: may be empty.
        sha256: its hash, 64 hex digits.
    """

    file: str
    bytes: int
    content_type: str
    sha256: str


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """What the gallery shows of a job, or of an earlier clip. Neither tokens nor URLs of the service are in it.

    Attributes:
        key: the job's key.
        state: as in `Result`; `earlier` is a stored clip that is neither the job's current one nor a further take.
        task_id: the remote task.
        cost: micro-dollars; None if unknown.
        error: why there is no clip, in words.
        name: the output name, without an extension.
        job: the job as it was enrolled; None if the batch has changed since this clip was made.
        form: the parameters as sent, by the service's names, without the image; empty unless `job` is None.
        image: the path or URL of the image, if `job` is None and its path is known.
        original: the name of the image of which the job's own is a converted copy; None if it is none, or unknown.
        render_seconds: from the acceptance of the task to its end; None if unknown.
        stored_at: when the clips were complete, in unix seconds.
        clips: the output files.
    """

    key: str
    state: str
    task_id: str | None
    cost: int | None
    error: str | None
    name: str
    job: dict[str, Any] | None
    form: dict[str, Any]
    image: str | None
    original: str | None
    render_seconds: float | None
    stored_at: float | None
    clips: list[GalleryClip]


@dataclass(frozen=True, slots=True)
class GalleryReport:
    """A journal for the gallery, as one commit left it.

    Attributes:
        states: how many items there are in each state.
        money: settled and reserved, over the journal's lifetime.
        items: jobs in batch order, each followed by its earlier clips, then those of jobs that the batch no longer
            names; they are read one at a time, once, while the report is open.
    """

    states: dict[str, int]
    money: Money
    items: Iterable[GalleryItem]


@contextmanager
def gallery_report(home: Home) -> Iterator[GalleryReport | None]:
    """Open the journal in `home` for the gallery; None if there is none.

    Raises:
        Unusable: it can't be read; also while `items` is read.
    """
    with reading(home) as db:
        if db is None:
            yield None
            return
        states = Counter[str](dict(db.execute(_GALLERY_STATES)))
        takes = unnamed_takes(db)
        further = sum(count for job, count in db.execute(_GALLERY_UNNAMED) if job in takes) if takes else 0
        states.update({State.STORED: further, "earlier": -further})
        money = Money(*db.execute("SELECT settled, reserved FROM money").fetchone())
        yield GalleryReport(dict(+states), money, _gallery_items(db, home, takes))


def _gallery_items(db: Database, home: Home, takes: frozenset[str]) -> Iterator[GalleryItem]:
    paths = {f"sha256:{sha256}": image for image, sha256 in db.execute("SELECT path, sha256 FROM images")}
    for _, rows in groupby(db.execute(_GALLERY_ROWS), lambda row: row[:2]):
        first, *further = rows
        key, _, state, task_id, cost, error, name, job, form, image, seconds, stored_at = first[:12]
        if state == "earlier" and job and key in takes:
            state = State.STORED
        clips = [
            GalleryClip(file, size, kind or "", sha256 or "")
            for *_, file, size, kind, sha256 in (first, *further)
            if file
        ]
        try:
            described, sent = (json.loads(job), {}) if job else (None, json.loads(form or "{}"))
        except ValueError:
            path = home / FILE if isinstance(home, Path) else home
            raise Unusable(f"the journal {path} is damaged: job {key} can't be read") from None
        known = None if job or not image else paths.get(image, image.removeprefix("url:"))
        if known is not None and known.startswith("sha256:"):
            known = None
        copy = COPY.fullmatch(PurePath((described or {}).get("image_file") or "").name)
        source = paths.get(f"sha256:{copy[1]}") if copy else None
        original = PurePath(source).name if source else None
        yield GalleryItem(
            key, state, task_id, cost, error, name, described, sent, known, original, seconds, stored_at, clips
        )
