"""The blocking calls that decide what survives a crash, and the ways to keep them out of the event loop."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint, current_token

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class IsALink(OSError):
    """A file that was to be written is a symbolic link, which is not followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "it is a symbolic link, and links are not followed for writing", str(path))


def refuse_link(path: Path) -> None:
    """Raises `IsALink` if the last part of `path` is a symbolic link; the folders above it may be."""
    if path.is_symlink():
        raise IsALink(path)


def is_transient(error: Exception) -> bool:
    """Whether a call failed for want of descriptors, threads or buffers, of which others may soon be given back."""
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


class Offload(Protocol):
    """Runs a blocking call somewhere and returns its result; it has ended when this returns or raises."""

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """What `func(*args)` returns or raises."""
        ...


async def inline(func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
    """An `Offload` that blocks the loop: for virtual time, in which a thread's time would not pass."""
    result = func(*args)
    await checkpoint()
    return result


def in_threads(count: int) -> Offload:
    """An `Offload` to at most `count` worker threads at once.

    However it is cancelled, it does not leave before the call is over: the call runs in a shielded child task, for
    which a task group waits even when asyncio cancels natively.
    """
    limiter = anyio.CapacityLimiter(count)

    async def offload(func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        results: list[T] = []
        raised: list[Exception] = []

        async def child() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    results.append(await anyio.to_thread.run_sync(func, *args, limiter=limiter))
                except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
                    raised.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
        if raised:
            raise raised[0]
        return results[0]

    return offload


def soon() -> Callable[..., object]:
    """Has this thread's event loop call something soon, from any thread, without waiting for it (anyio's own waits)."""
    native: Any = current_token().native_token
    call: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return call


class Files:
    """The calls themselves. Tests put their own in its place, to watch their order or to make them fail."""

    def open(self, path: Path) -> FileIO:
        """Opens, unbuffered, to read and to append; makes the file if it isn't there.

        Raises:
            IsALink: it is a symbolic link.
        """
        refuse_link(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return FileIO(os.open(path, flags, 0o666), "r+")

    def write(self, file: FileIO, data: bytes) -> None:
        """Writes all of `data`, however little of it a call takes."""
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    def fsync(self, file: FileIO) -> None:
        """Makes the file's content durable."""
        os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name, if that name is free."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Renames; on POSIX it would overwrite."""
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        """Renames, in place of whatever has the name."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Takes a name away."""
        path.unlink(missing_ok=True)

    def fsync_folder(self, folder: Path) -> None:
        """Makes the names in a folder durable, where the system can (Windows can't)."""
        if os.name == "nt":
            return
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
                raise
        finally:
            os.close(fd)
