"""Images that a run writes to files of its own."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

import pytest

from wan_async.engine.run import write_inputs
from wan_async.filesystem import Files


def test_two_processes_may_write_the_same_image_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inputs" / "image.png"

    class MetByAnother(Files):
        def fsync(self, file: FileIO) -> None:
            super().fsync(file)
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: -1)
                write_inputs(Files(), {path: b"image"})

    write_inputs(MetByAnother(), {path: b"image"})
    assert (path.read_bytes(), [each.name for each in path.parent.iterdir()]) == (b"image", ["image.png"])
