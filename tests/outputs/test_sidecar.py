from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import pytest

from wan_async.filesystem import Files, IsALink
from wan_async.outputs.sidecar import write_json, write_lines


@dataclass
class Watched(Files):
    """Writes down each call with what it is about, and fails where it is told to."""

    log: list[str] = field(default_factory=list)
    failing: str = ""

    def note(self, call: str, path: Path | str = "") -> None:
        self.log.append(f"{call} {path.name if isinstance(path, Path) else path}".rstrip())
        if call == self.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open(self, path: Path) -> FileIO:
        self.note("open", path)
        return super().open(path)

    def write(self, file: FileIO, data: bytes) -> None:
        self.note("write")
        super().write(file, data)

    def fsync(self, file: FileIO) -> None:
        self.note("fsync")
        super().fsync(file)

    def replace(self, source: Path, target: Path) -> None:
        self.note("replace", f"{source.name} -> {target.name}")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self.note("unlink", path)
        super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        self.note("fsync_folder", folder)
        super().fsync_folder(folder)


Writer = Callable[[Path, Files], None]


def one(path: Path, files: Files) -> None:
    write_json(path, {"new": True}, files)


def many(path: Path, files: Files) -> None:
    write_lines(path, ({"new": number} for number in range(2500)), files)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "cat.json"


@pytest.mark.parametrize(("write", "writes"), [(one, 1), (many, 3)])
def test_it_is_durable_before_it_has_its_name_and_the_name_before_it_is_told(
    path: Path, write: Writer, writes: int
) -> None:
    files = Watched()
    write(path, files)
    assert files.log == [
        "unlink cat.json.tmp",
        "open cat.json.tmp",
        *["write"] * writes,
        "fsync",
        "replace cat.json.tmp -> cat.json",
        "fsync_folder out",
    ]
    assert os.listdir(path.parent) == ["cat.json"]  # noqa: PTH208


@pytest.mark.parametrize("write", [one, many])
@pytest.mark.parametrize("failing", ["unlink", "open", "write", "fsync", "replace"])
@pytest.mark.parametrize("old", [b'{"old": true}\n', None])
def test_a_full_disk_leaves_what_was_there(path: Path, write: Writer, failing: str, old: bytes | None) -> None:
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(OSError, match="No space left"):
        write(path, Watched(failing=failing))
    assert (path.read_bytes() if path.exists() else None) == old
    write(path, Files())
    assert b"new" in path.read_bytes()
    assert os.listdir(path.parent) == ["cat.json"]  # noqa: PTH208


@pytest.mark.parametrize("write", [one, many])
def test_a_name_that_is_not_durable_is_not_passed_over(path: Path, write: Writer) -> None:
    with pytest.raises(OSError, match="No space left"):
        write(path, Watched(failing="fsync_folder"))
    assert b"new" in path.read_bytes()


def test_what_an_earlier_death_left_is_not_written_into(path: Path) -> None:
    path.with_name("cat.json.tmp").write_bytes(b"x" * 1000)
    one(path, Files())
    assert json.loads(path.read_bytes()) == {"new": True}


def test_a_row_that_cannot_be_had_leaves_what_was_there(path: Path) -> None:
    path.write_bytes(b"old")

    def rows() -> Iterator[dict[str, object]]:
        yield {"fine": 1}
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_lines(path, rows(), Files())
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": b"bytes"}, Files())
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_gone_or_in_the_way_is_an_error_of_the_disk(path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        one(path.parent / "gone" / "cat.json", Files())
    path.mkdir()
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        one(path, Files())
    assert path.is_dir()


def test_people_can_read_it_whatever_is_in_it(path: Path) -> None:
    content = {"prompt": 'Überwältigend "schön" \u2028 🐈', "cost_usd": None, "odd": "half \ud800 of a pair"}
    write_json(path, content, Files())
    text = path.read_text("utf-8")
    assert "Überwältigend" in text
    assert text.startswith("{\n  ")
    assert text.endswith("}\n")
    assert json.loads(text) == content | {"odd": "half ? of a pair"}


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000])
def test_each_row_has_a_line_of_its_own(path: Path, count: int) -> None:
    rows = [{"job": f"j{number}", "error": "two\nlines"} for number in range(count)]
    write_lines(path, rows, Files())
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("write", [one, many])
@pytest.mark.parametrize("name", ["cat.json", "cat.json.tmp"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_refused_with_its_name_and_what_it_leads_to_left_alone(
    path: Path, write: Writer, name: str, dangling: bool
) -> None:
    elsewhere = path.with_name("elsewhere")
    if not dangling:
        elsewhere.write_bytes(b"mine")
    path.with_name(name).symlink_to(elsewhere)
    with pytest.raises(IsALink, match=name):
        write(path, Files())
    assert dangling or elsewhere.read_bytes() == b"mine"
    assert path.with_name(name).is_symlink()
    assert elsewhere.exists() is not dangling


def test_a_folder_above_may_be_a_link(path: Path) -> None:
    linked = path.parent.with_name("linked")
    linked.symlink_to(path.parent, target_is_directory=True)
    one(linked / path.name, Files())
    assert json.loads(path.read_bytes()) == {"new": True}
