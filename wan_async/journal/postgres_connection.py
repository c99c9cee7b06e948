"""A PostgreSQL database with one writer in this process: group commit, and patience while the server is gone.

Guarantees. All transactions that write to journals of one account run one after the other, under a lock that the server
releases with the transaction; so a change sees what it decides on, as in SQLite. Each of them first checks that this
process still holds the journal, else it raises `LeaseLost` and changes nothing. A server that restarts, or can't be
reached, is waited for: the transaction is run again, unless the server says that it was committed, its answer lost.
One that lacks commits when it is back (`server_history`) makes all that held the journal lose it.
A process that stops in the middle of a transaction delays the others for
`postgres_adapter.IDLE_SECONDS`; then the server ends it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from wan_async.errors import LeaseLost, Unusable
from wan_async.journal.base import DatabaseHome
from wan_async.journal.group_commit import Pending, Writer
from wan_async.journal.postgres_adapter import PostgresDatabase, advice, connect, import_psycopg, search_path
from wan_async.journal.server_history import history_of, note_history
from wan_async.journal.sql_interface import Database

if TYPE_CHECKING:
    from wan_async.journal.postgres_adapter import Link

LOCK_OF_ACCOUNT, LOCK_OF_JOURNAL, LOCK_OF_LAYOUT, LOCK_OF_RESULTS = 7823726, 7823727, 7823728, 7823729
"""First keys of advisory locks; the second is the id of the account or the journal."""
OPENING_SECONDS = 10.0
"""How long a server that can't be reached is waited for when a journal is opened."""
LEAVING_SECONDS = 3.0
"""The same once a caller was cancelled, or the journal is closed."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
LEAVING_POLL_SECONDS = 1.0
"""How often a caller who waits looks whether it was cancelled."""

_PASSING = ("08", "40", "53", "55", "57", "25P03", "25006", "58")
"""SQLSTATEs after which the same may succeed: connection, conflict, resources, locks, shutdown, standby, system."""

log: logging.Logger = logging.getLogger(__name__)


class Hold:
    """What a process has of a journal: made when it is opened, checked by each transaction.

    Attributes:
        journal: the journal's id.
        account: the id of the account that it belongs to.
        holder: the id of the row in `wan_async.holders`.
        exclusive: whether no other process may have it open.
        number: which of the account's processes this is.
        commits: the number of the latest transaction that is known to be committed, as the row counts them.
        is_worker: whether it is a worker, which may write about the jobs alone that it has taken.
    """

    def __init__(self, journal: int, account: int, holder: int, *, exclusive: bool, is_worker: bool = False) -> None:
        self.journal = journal
        self.account = account
        self.holder = holder
        self.exclusive = exclusive
        self.number: int = 0
        self.commits: int = 0
        self.is_worker = is_worker

    @property
    def begin(self) -> bytes:
        """The statements that begin a transaction: its number; none if the journal is no longer held.

        Each of them has a snapshot of its own; the last one's is made after the lock was granted.
        """
        return (
            f"BEGIN; SELECT pg_advisory_xact_lock({LOCK_OF_ACCOUNT}, {self.account}); "
            f"WITH held AS (UPDATE wan_async.holders SET commits = commits + 1 WHERE id = {self.holder} "
            "RETURNING commits) SELECT (SELECT commits FROM held)"
        ).encode()

    @property
    def lock(self) -> bytes:
        """The statement that takes the lock on the journal for as long as the connection lives, if it can."""
        shared = "" if self.exclusive else "_shared"
        return f"SELECT pg_try_advisory_lock{shared}({LOCK_OF_JOURNAL}, {self.journal})".encode()

    @property
    def connected(self) -> bytes:
        """The statement that records the present connection."""
        return (
            "UPDATE wan_async.holders SET pid = pg_backend_pid(), connected_at = (SELECT backend_start "
            f"FROM pg_stat_activity WHERE pid = pg_backend_pid()) WHERE id = {self.holder}"
        ).encode()

    @property
    def session(self) -> bytes:
        """The statements that set up a connection."""
        return session_of(self.journal)


def session_of(journal: int) -> bytes:
    """The statements that set up a connection to a journal."""
    return (f"SET search_path TO {search_path(journal)}; SET synchronous_commit TO on").encode()


class PostgresConnection(Writer[Database]):
    """An open journal's connection. Make it with `wan_async.journal.postgres.PostgresJournal.open`.

    Args:
        home: where the journal is kept.
        open_journal: takes hold of the journal on a new connection; run once.
        inline: commit in the event loop's own thread.

    Attributes:
        on_begin: called when a transaction has begun.
        before_commit: called in a transaction, after its changes.
        held_at: when the latest transaction began that found the journal still held, by `lasting_clock`.
    """

    def __init__(self, home: DatabaseHome, open_journal: Callable[[Link], Hold], *, inline: bool) -> None:
        self._psycopg = import_psycopg()
        self._home = home
        self._open_journal = open_journal
        self._link: Link | None = None
        self._hold: Hold | None = None
        self._committing = self._was_committed = self._is_lost = False
        self.on_begin: Callable[[], None] = lambda: None
        self.before_commit: Callable[[Database], None] = lambda db: None
        self.held_at: float = -math.inf
        self._give_up_at = time.monotonic() + OPENING_SECONDS
        super().__init__(home, inline=inline)

    async def read(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a query, as the last commit left them."""
        return await self.submit(Pending(lambda db: db.execute(query, arguments).fetchall(), only_reads=True))

    async def open(self) -> Hold:
        """Connects and takes hold of the journal.

        Raises:
            Unusable: the server can't be reached, or refuses; another process holds the journal.
        """
        await self.submit(Pending(lambda db: None, only_reads=True))
        assert self._hold is not None
        return self._hold

    async def wait_done(self, pending: Pending[Database, Any]) -> None:
        """Waits until a change is done. Once the caller is cancelled, a server that is gone is not waited for long."""
        while not pending.done.is_set():
            if anyio.current_effective_deadline() == -math.inf:
                self._hurry()
            with anyio.move_on_after(LEAVING_POLL_SECONDS, shield=True):
                await pending.done.wait()

    async def close(self) -> None:
        """Commits what is queued, gives the journal back, and refuses further changes."""
        try:
            if self._hold is not None and not self._closed:
                self._hurry()
                holder = self._hold.holder

                def leave(db: Database) -> None:
                    db.execute("DELETE FROM wan_async.holders WHERE id = ?", (holder,))

                try:
                    await self.write(leave)
                    # the server notices only some time after the connection's end that it can release its locks
                    await self.read("SELECT pg_advisory_unlock_all()")
                except Unusable as error:
                    log.debug("the journal was not given back: %s", error)
        finally:
            await super().close()
            if self._link is not None:
                self._link.close()

    def commit(self, batch: Sequence[Pending[Database, Any]]) -> None:
        """Commits all changes at once; if the database refuses that, each alone."""
        changes = [pending for pending in batch if not pending.only_reads]
        if changes:
            try:
                self._try_until_done(lambda link: self._transact(link, changes))
            except self._psycopg.Error as error:
                for pending in changes:
                    if self._committing:  # they may have been committed
                        pending.error = Unusable(advice(error, self._home))
                    else:
                        self._alone(pending, partial(self._transact, changes=[pending]))
            except Unusable as error:
                for pending in changes:
                    pending.error = error
        for pending in batch:
            if pending.only_reads:
                self._alone(pending, partial(_read, pending=pending))

    def _alone(self, pending: Pending[Database, Any], act: Callable[[Link], None]) -> None:
        try:
            self._try_until_done(act)
        except self._psycopg.Error as error:
            pending.error = Unusable(advice(error, self._home))
        except Unusable as error:
            pending.error = error

    def _hurry(self) -> None:
        if self._give_up_at == math.inf:
            self._give_up_at = time.monotonic() + LEAVING_SECONDS

    def _try_until_done(self, act: Callable[[Link], None]) -> None:
        """Does something on the connection, again for as long as the server is not available.

        Raises:
            psycopg.Error: the server refuses it.
            Unusable: the journal was lost to another process, or the server was not available in time.
        """
        failures = 0
        self._committing = False
        while True:
            try:
                act(self._connected())
            except self._psycopg.Error as error:
                if not self._is_passing(error):
                    self._reset()
                    raise
                self._reset()
                if time.monotonic() >= self._give_up_at:
                    raise Unusable(advice(error, self._home)) from None
                if not failures:
                    log.warning("waiting for the database: %s", " ".join(str(error).split()))
                time.sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**failures))
                failures += 1
            except BaseException:
                self._reset()
                raise
            else:
                self._give_up_at = math.inf
                if failures:
                    log.warning("the database is available again")
                return

    def _is_passing(self, error: Exception) -> bool:
        state = getattr(error, "sqlstate", None)
        if state is None:  # the client's own: the connection could not be made, or broke
            return isinstance(error, self._psycopg.OperationalError) and not is_refusal(error)
        return str(state).startswith(_PASSING)

    def _reset(self) -> None:
        """Ends a transaction that failed; a connection that broke is dropped."""
        link = self._link
        if link is None:
            return
        try:
            if link.info.transaction_status != self._psycopg.pq.TransactionStatus.IDLE:
                link.execute(b"ROLLBACK")
        except self._psycopg.Error as error:
            log.debug("the connection is dropped: %s", error)
            link.close()
        if link.closed:
            self._link = None
        else:
            self._committing = False  # the server answered: nothing was committed

    def _connected(self) -> Link:
        if self._link is not None:
            return self._link
        if self._is_lost:  # it would take the journal from those who have opened it since
            raise _lost(self._home)
        link = connect(self._home.dsn)
        try:
            if self._hold is None:
                self._hold = self._open_journal(link)
            else:
                self._take_again(link, self._hold)
        except BaseException:
            link.close()
            raise
        self._link = link
        return link

    def _take_again(self, link: Link, hold: Hold) -> None:
        """Sets up a new connection after the former broke, and finds out whether the last COMMIT was done."""
        link.execute(hold.session)
        counted = fence_if_changed(link, hold)
        if counted is None:
            self._is_lost = True
            raise _lost(self._home)
        if not _row(link, hold.lock)[0]:
            raise self._psycopg.OperationalError("the server still has this process's former connection")
        link.execute(hold.connected)
        self._was_committed = counted != hold.commits  # last: the next attempt would compare with the new count
        hold.commits = counted

    def _transact(self, link: Link, changes: Sequence[Pending[Database, Any]]) -> None:
        assert self._hold is not None
        if self._committing and self._was_committed:
            return  # the answer was lost; the values are those of that transaction
        self._committing = False
        began = lasting_clock()
        (commits,) = _last_row(link, self._hold.begin)
        if commits is None:
            raise _lost(self._home)
        self.on_begin()
        db = PostgresDatabase(link)
        between = b"SAVEPOINT one"
        for pending in changes:
            pending.error = None
            link.execute(between)
            between = b"RELEASE one; SAVEPOINT one"
            try:
                pending.value = pending.change(db)
            except Exception as error:  # raised to its own caller; only the database's errors concern all
                if isinstance(error, self._psycopg.Error) and not isinstance(error, self._psycopg.IntegrityError):
                    raise
                pending.error = error
                link.execute(b"ROLLBACK TO one")
        self.before_commit(db)
        self._committing = True
        link.execute(b"COMMIT")
        self._committing = False
        self._hold.commits = commits
        self.held_at = began


def fence_if_changed(link: Link, hold: Hold) -> int | None:
    """Takes a journal away from all that hold it if the server may lack commits.

    Args:
        link: a connection that is set up for the journal, in no transaction.
        hold: what this process has of the journal, or, if its `holder` is 0, is about to take.

    Returns:
        How many transactions the server counts for this process; None if the journal is lost.
    """
    history = history_of(link)
    query = f"""
        SELECT commits, fenced, TRUE FROM wan_async.holders WHERE id = {hold.holder}
        UNION ALL SELECT commits, fenced, FALSE FROM wan_async.former_holders WHERE id = {hold.holder}
        UNION ALL SELECT NULL, FALSE, FALSE
    """
    with link.transaction():  # once the lock is had, this process's former transaction has ended
        link.execute(f"SELECT pg_advisory_xact_lock({LOCK_OF_ACCOUNT}, {hold.account})".encode())
        counted, was_fenced, is_held = _row(link, query.encode())
        # a commit that was not answered is one more
        lacks_commits = bool(hold.holder) and not was_fenced and counted not in (hold.commits, hold.commits + 1)
        is_fenced = note_history(PostgresDatabase(link), hold.journal, history, lacks_commits=lacks_commits)
    if is_fenced or not (is_held or not hold.holder):
        return None
    return int(counted or 0)


def lasting_clock() -> float:
    """Seconds that also pass while the machine is suspended, where the system counts them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if clock is None else time.clock_gettime(clock)


def is_refusal(error: Exception) -> bool:
    """Whether a server that was reached refused the connection: a wrong password, no such database."""
    said = str(error)
    return any(each in said for each in ("authentication failed", "does not exist", "pg_hba.conf"))


def _lost(home: DatabaseHome) -> LeaseLost:
    return LeaseLost(
        f"this process no longer holds {home} (another one took over, or the database lacks its latest changes): "
        "nothing was changed; run the same command again"
    )


def _read(link: Link, pending: Pending[Database, Any]) -> None:
    pending.value = pending.change(PostgresDatabase(link))


def _row(link: Link, query: bytes) -> tuple[Any, ...]:
    row = link.execute(query).fetchone()
    assert row is not None
    return row


def _last_row(link: Link, queries: bytes) -> tuple[Any, ...]:
    """The row of the last of several statements."""
    cursor = link.execute(queries)
    while cursor.nextset():
        pass
    row = cursor.fetchone()
    assert row is not None
    return row
