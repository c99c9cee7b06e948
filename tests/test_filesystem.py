"""The file operations on which durability depends."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path

import pytest

from wan_async.filesystem import Files, IsALink, is_transient


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_not_opened_even_if_it_has_just_appeared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dangling: bool
) -> None:
    path, target = tmp_path / "part", tmp_path / "precious"
    if not dangling:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(IsALink, match="part"):
        Files().open(path)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)  # the link was created after the check
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
        (RuntimeError("the download was abandoned"), False),
        (ValueError("can't start new thread"), False),
    ],
)
def test_errors_of_exhausted_resources_are_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_an_opened_file_is_appended_to_without_a_buffer(tmp_path: Path) -> None:
    path, files = tmp_path / "x", Files()
    with files.open(path) as file:
        files.write(file, b"")
        files.write(file, b"one ")
        files.fsync(file)
        assert path.read_bytes() == b"one "  # nothing is buffered
    with files.open(path) as file:
        assert file.read() == b"one "
        files.write(file, b"two\r\n")
        file.seek(0)
        file.truncate(3)
    assert path.read_bytes() == b"one"
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        files.open(tmp_path)
    assert not path.stat().st_mode & 0o111


def test_a_short_write_is_continued_until_the_disk_is_full(tmp_path: Path) -> None:
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


def test_a_hard_link_overwrites_nothing(tmp_path: Path) -> None:
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
def test_a_folder_is_synced_if_the_system_supports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    synced: list[str] = []
    left_open: list[int] = []
    fsync, close = os.fsync, os.close

    def record_fsync(fd: int) -> None:
        left_open.append(fd)
        place = Path(f"/proc/self/fd/{fd}")
        synced.append(str(place.readlink()) if place.parent.exists() else str(tmp_path))
        fsync(fd)

    def refuse(fd: int) -> None:
        left_open.append(fd)
        raise OSError(code, os.strerror(code))

    def record_close(fd: int) -> None:
        left_open.remove(fd)
        close(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", record_close)
        patched.setattr(os, "fsync", record_fsync)
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
        Files().fsync_folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        Files().fsync_folder(tmp_path / "gone")
