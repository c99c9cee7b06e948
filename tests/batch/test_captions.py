"""The captions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wan_async.batch.captions import Captions


def test_a_path_of_many_folders_is_compared_with_the_root_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each folder was, for which Python 3.12 and later make a path of each folder above it."""
    calls: list[Path] = []
    original = Path.is_relative_to

    def counted(path: Path, *other: Any) -> bool:
        calls.append(path)
        return original(path, *other)

    monkeypatch.setattr(Path, "is_relative_to", counted)
    image = tmp_path.joinpath(*["a"] * 200, "cat.png")
    assert Captions(tmp_path).of(str(image)) is None
    assert calls == [image]
