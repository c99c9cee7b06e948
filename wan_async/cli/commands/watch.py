"""`watch`: render what is dropped into a folder, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio
import anyio.to_thread

from wan_async import errors
from wan_async.batch import reader
from wan_async.batch.batch_folder import BatchFolder
from wan_async.batch.parser import check_defaults
from wan_async.batch.plan import Prepared
from wan_async.batch.watcher import Ready, Version, WatchedFolder, read_ready
from wan_async.cli.command_inputs import checked_folder, say_service
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import of_this_command, print_json_line, say
from wan_async.cli.run_batch import execute
from wan_async.cli.run_options import run_options
from wan_async.domain.batch import Batch
from wan_async.domain.exit_codes import INTERRUPTIONS, ExitCode
from wan_async.engine.options import Options
from wan_async.journal.base import FOLDER

ENDING = INTERRUPTIONS | {ExitCode.INVALID, ExitCode.AUTHENTICATION, ExitCode.FUNDS}
"""Exit codes of a run after which the next one would end in the same way, or is not wanted."""
PASSING = frozenset({ExitCode.ENVIRONMENT, ExitCode.LOCKED})
"""Exit codes after which a later run may do better; not the first one, whose settings may be wrong."""
RESCAN_SECONDS = 30.0
"""How often the folder is looked through without a notification: some network file systems send none."""
RETRY_SECONDS = 60.0
"""The pause after a run that the environment ended, such as a network that is gone."""
COALESCE_SECONDS = 0.2
NOTIFICATION_DEBOUNCE_MS, NOTIFICATION_STEP_MS = 200, 50


def watch(args: argparse.Namespace) -> ExitCode:
    """Render what is dropped into a folder; returns the exit code of the last run.

    Raises:
        errors.InvalidBatch: there is no such folder, or neither `--budget` nor `--yes` was given.
        errors.Unusable: the package `watchfiles` is missing, or the folder can't be watched.
    """
    if find_spec("watchfiles") is None:
        raise errors.Unusable("watch needs the package watchfiles: pip install 'wan-async[watch]'")
    folder = Path(args.folder)
    problems = []
    if args.budget is None and not args.yes:
        problem = "say how much may be spent while nobody looks: --budget USD (or --yes for no limit)"
        problems.append(errors.Problem("--budget", problem))
    if not args.folder or not folder.is_dir():
        problems.append(errors.Problem(args.folder or "FOLDER", "there is no such folder"))
    try:
        check_defaults(args.set, BatchFolder(folder))
    except errors.InvalidBatch as error:
        problems += error.problems
    if problems:
        raise errors.InvalidBatch(problems)
    output = reader.output_folder(folder, Batch([], None, str(folder)), args.output)
    if not isinstance(output, Path):
        problem = "watch writes to folders only: let `run` send what it rendered to an object store"
        raise errors.InvalidBatch([errors.Problem("-o", problem)])
    output = checked_folder(args, output, "-o")
    say_service(args)
    args.yes = True  # it was asked for, or the budget is the answer
    return _Watch(args, folder, output).run()


class _Watch:
    """Runs, one after the other, of what is complete at the time. What is done already, the journal knows."""

    def __init__(self, args: argparse.Namespace, folder: Path, output: Path) -> None:
        self._args = args
        self._folder = folder
        self._output = output
        self._watched = WatchedFolder(folder, recursive=args.recursive, stable_seconds=args.stable)
        self._tried: frozenset[tuple[str, Version]] | None = None
        self._rendered: frozenset[tuple[str, Version]] = frozenset()
        self._said: dict[str, str] = {}
        self._stopped = False

    def run(self) -> ExitCode:
        """Run until a signal, or until a run ends in a way that the next one would as well."""
        says, code, has_run, pause = f"clips go to {self._output}, Ctrl-C stops", ExitCode.SUCCESS, False, 0.0
        options = run_options(self._args)
        while True:
            try:
                batch = anyio.run(self._next, says, pause)
            except KeyboardInterrupt:  # in the moment before signals are handled
                batch = None
            if batch is None:
                return code
            code = self._execute(batch, options, may_fail=has_run)
            if self._stopped or code in ENDING or (code in PASSING and not has_run):
                return code
            says, pause = "waiting for more", 0.0
            if code in PASSING:
                self._tried, self._rendered, pause = None, frozenset(), RETRY_SECONDS
                says = f"the next run is in {RETRY_SECONDS:.0f} s"
            has_run = has_run or code not in PASSING

    def _execute(self, batch: Prepared, options: Options, *, may_fail: bool) -> ExitCode:
        def note() -> None:
            self._stopped = True

        try:
            return execute(self._args, batch, self._output, self._output / FOLDER, options, on_signal=note)
        except errors.Locked as error:
            if not may_fail:
                raise
            say(f"error: {error}")
            return ExitCode.LOCKED

    async def _next(self, says: str, pause: float) -> Prepared | None:
        """Say something, and wait for a batch with something new in it; None when a signal asks to stop."""
        found: Prepared | errors.WanError | None = None
        async with anyio.create_task_group() as group:
            await group.start(_cancel_at_signal, group.cancel_scope)
            say(f"watching {self._folder}: {says}")
            await anyio.sleep(pause)
            async with _changes(self._folder, recursive=self._args.recursive) as changes:
                try:
                    found = await self._wait(changes)
                except errors.WanError as error:  # raised below, outside of the task groups
                    found = error
            group.cancel_scope.cancel()
        if isinstance(found, errors.WanError):
            raise found
        return found

    async def _wait(self, changes: _Changes) -> Prepared:
        while True:
            changes.forget()
            try:
                look = await anyio.to_thread.run_sync(self._watched.look, time.monotonic(), abandon_on_cancel=True)
            except OSError as error:
                raise errors.Unusable(f"{self._folder} can't be read: {error.strerror or error}") from None
            if look.images and look.versions != self._tried:
                self._tried = look.versions
                args = self._args
                read = partial(
                    read_ready, look, self._folder, self._output, args.prompt, upright=args.prepare, defaults=args.set
                )
                ready = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
                self._report(ready)
                taken = frozenset((image, look.images[image]) for image in ready.images) | look.captions.items()
                if ready.batch is not None and not taken <= self._rendered:
                    self._rendered = taken
                    return ready.batch
            await changes.wait(self._args.stable if look.incomplete else RESCAN_SECONDS)

    def _report(self, ready: Ready) -> None:
        """Write what is wrong with the images that are held back, once."""
        held = {path: text for path, text in ready.held.items() if Path(path).exists()}
        for path, text in held.items():
            if self._said.get(path) != text:
                say(sanitise(f"{path} waits: {text}"))
                if self._args.json:
                    print_json_line({"event": "problem", **of_this_command(), "where": path, "message": text})
        for notice in ready.notices:
            if self._said.get(notice) != notice:
                say(sanitise(f"note: {notice}"))
        self._said = held | {notice: notice for notice in ready.notices}


async def _cancel_at_signal(scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        with anyio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for _ in received:
                scope.cancel()
    except NotImplementedError:  # Windows: there Ctrl-C is a KeyboardInterrupt
        task_status.started()


class _Changes:
    """Whether something changed in a folder. Notifications are only a reason to look."""

    def __init__(self) -> None:
        self._changed = anyio.Event()
        self._error: errors.Unusable | None = None

    def fail(self, error: errors.Unusable) -> None:
        self._error = error
        self._changed.set()

    def note(self) -> None:
        self._changed.set()

    def forget(self) -> None:
        self._changed = anyio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most for some seconds.

        Raises:
            errors.Unusable: there can't be notifications.
        """
        if self._error is not None:
            raise self._error
        with anyio.move_on_after(seconds):
            await self._changed.wait()
            await anyio.sleep(min(seconds, COALESCE_SECONDS))


@asynccontextmanager
async def _changes(folder: Path, *, recursive: bool) -> AsyncIterator[_Changes]:
    """Notifications of changes in a folder, from the moment in which this begins."""
    changes = _Changes()

    async def listen(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        import watchfiles

        notifications = watchfiles.awatch(
            folder, watch_filter=None, debounce=NOTIFICATION_DEBOUNCE_MS, step=NOTIFICATION_STEP_MS,
            rust_timeout=NOTIFICATION_DEBOUNCE_MS, yield_on_timeout=True, recursive=recursive,
            ignore_permission_denied=True,
        )  # fmt: skip
        try:
            await anext(notifications)  # at least that none came in time: the folder is being watched
            task_status.started()
            async for found in notifications:
                if found:
                    changes.note()
        except (OSError, RuntimeError) as error:
            changes.fail(errors.Unusable(f"{folder} can't be watched: {error}"))
            with suppress(RuntimeError):  # it has begun before
                task_status.started()
        finally:
            await notifications.aclose()

    async with anyio.create_task_group() as group:
        await group.start(listen)
        yield changes
        group.cancel_scope.cancel()
