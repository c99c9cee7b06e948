from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from wan_async.filesystem import Files, IsALink, is_transient
from wan_async.threads import in_threads, inline

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Slow:
    """A blocking call that takes as long as the test wants."""

    def __init__(self) -> None:
        self.started, self.go_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, value: int, error: Exception | None = None) -> int:
        self.started.set()
        assert self.go_on.wait(10)
        self.done.set()
        if error is not None:
            raise error
        return value

    async def wait_started(self) -> None:
        await anyio.to_thread.run_sync(self.started.wait, 10)


async def test_a_call_gives_what_it_returns_or_raises_itself_and_in_no_group() -> None:
    def fail(error: Exception) -> None:
        raise error

    for offload in (inline, in_threads(2)):
        assert await offload(int, "7") == 7
        assert await offload(dict) == {}
        error = OSError(errno.ENOSPC, "full")
        with pytest.raises(OSError, match="full") as caught:
            await offload(fail, error)
        assert caught.value is error


async def test_threads_do_not_hold_up_the_loop_and_are_no_more_than_asked_for() -> None:
    offload, calls = in_threads(2), [Slow() for _ in range(3)]
    assert threading.current_thread() is threading.main_thread()
    results: list[int] = []

    async def call(number: int) -> None:
        results.append(await offload(calls[number], number))

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(call, number)
            await calls[number].wait_started()
        group.start_soon(call, 2)
        await anyio.wait_all_tasks_blocked()
        assert not calls[2].started.is_set()
        calls[1].go_on.set()
        await calls[2].wait_started()
        calls[0].go_on.set()
        calls[2].go_on.set()
    assert sorted(results) == [0, 1, 2]


async def test_in_line_is_in_the_loops_own_thread() -> None:
    assert await inline(threading.get_ident) == threading.get_ident()
    assert await in_threads(1)(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [None, ValueError("nobody hears it")])
async def test_a_cancelled_scope_waits_until_the_call_is_over(error: Exception | None) -> None:
    slow, scope = Slow(), anyio.CancelScope()

    async def call() -> None:
        with scope:
            with suppress(ValueError):
                await in_threads(1)(slow, 1, error)
            assert slow.done.is_set()
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await slow.wait_started()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not slow.done.is_set()
            assert not scope.cancelled_caught
            slow.go_on.set()
    assert slow.done.is_set()
    assert scope.cancelled_caught


@asyncio_only
async def test_cancelling_again_and_again_does_not_leave_the_call_behind(anyio_backend: str) -> None:
    slow = Slow()
    task = asyncio.create_task(in_threads(1)(slow, 1))
    await slow.wait_started()
    for _ in range(3):
        task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
    slow.go_on.set()
    await asyncio.wait([task])
    assert slow.done.is_set()
    assert task.cancelled()


@asyncio_only
async def test_a_timeout_waits_until_the_call_is_over(anyio_backend: str) -> None:
    slow = Slow()
    waiting = asyncio.create_task(asyncio.wait_for(in_threads(1)(slow, 1), 0.001))
    await slow.wait_started()
    slow.go_on.set()
    with suppress(TimeoutError):  # the call may have been faster
        await waiting
    assert slow.done.is_set()


async def test_in_line_a_cancellation_strikes_after_the_call() -> None:
    called: list[int] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await inline(called.append, 1)
    assert called == [1]
    assert scope.cancelled_caught


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_not_opened_even_if_it_came_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dangling: bool
) -> None:
    path, target = tmp_path / "part", tmp_path / "precious"
    if not dangling:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(IsALink, match="part"):
        Files().open(path)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)  # the link came after it was looked for
    with pytest.raises(OSError, match=r"[Ll]ink"):
        Files().open(path)
    monkeypatch.undo()
    assert dangling or target.read_bytes() == b"precious"
    assert target.exists() is not dangling


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.EMFILE, "x"), True),
        (OSError(errno.ENFILE, "x"), True),
        (OSError(errno.EAGAIN, "x"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOSPC, "x"), False),
        (OSError("x"), False),
        (RuntimeError("nobody waits for this any more"), False),
        (ValueError("can't start new thread"), False),
    ],
)
def test_what_others_may_soon_give_back_is_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_a_file_is_gone_on_with_where_it_stands(tmp_path: Path) -> None:
    path, files = tmp_path / "x", Files()
    with files.open(path) as file:
        files.write(file, b"")
        files.write(file, b"one ")
        files.fsync(file)
        assert path.read_bytes() == b"one "  # nothing waits in a buffer
    with files.open(path) as file:
        assert file.read() == b"one "
        files.write(file, b"two\r\n")
        file.seek(0)
        file.truncate(3)
    assert path.read_bytes() == b"one"
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        files.open(tmp_path)
    assert not path.stat().st_mode & 0o111


def test_a_short_write_is_gone_on_with_until_the_disk_is_full(tmp_path: Path) -> None:
    class Short(FileIO):
        left = 7

        def write(self, data: object) -> int:
            assert isinstance(data, memoryview)
            if not self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = super().write(data[: min(3, self.left)])
            self.left -= written
            return written

    with Short(tmp_path / "x", "w") as file:
        Files().write(file, b"01234")
        with pytest.raises(OSError, match="No space left"):
            Files().write(file, b"56789")
    assert (tmp_path / "x").read_bytes() == b"0123456"


def test_a_second_name_clobbers_nothing(tmp_path: Path) -> None:
    source, target, files = tmp_path / "source", tmp_path / "target", Files()
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.link(source, target)
    assert target.read_bytes() == b"old"
    files.unlink(target)
    files.unlink(target)
    files.link(source, target)
    assert target.samefile(source)
    files.unlink(source)
    files.rename(target, source)
    target.write_bytes(b"newer")
    files.replace(target, source)
    assert source.read_bytes() == b"newer"
    assert not target.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO, errno.ENOSPC])
def test_a_folder_is_synced_where_the_system_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    synced: list[str] = []
    left_open: list[int] = []
    fsync, close = os.fsync, os.close

    def note(fd: int) -> None:
        left_open.append(fd)
        place = Path(f"/proc/self/fd/{fd}")
        synced.append(str(place.readlink()) if place.parent.exists() else str(tmp_path))
        fsync(fd)

    def refuse(fd: int) -> None:
        left_open.append(fd)
        raise OSError(code, os.strerror(code))

    def forget(fd: int) -> None:
        left_open.remove(fd)
        close(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", forget)
        patched.setattr(os, "fsync", note)
        Files().fsync_folder(tmp_path)
        assert synced == [str(tmp_path)]
        patched.setattr(os, "fsync", refuse)
        if code in (errno.EINVAL, errno.ENOTSUP):
            Files().fsync_folder(tmp_path)
        else:
            with pytest.raises(OSError, match=os.strerror(code)):
                Files().fsync_folder(tmp_path)
        assert not left_open
        patched.setattr(os, "name", "nt")
        Files().fsync_folder(tmp_path / "which isn't even there")
    with pytest.raises(FileNotFoundError):
        Files().fsync_folder(tmp_path / "gone")
