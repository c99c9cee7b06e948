"""Verdicts about the clips of a folder, as the review page exports them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

PICK: dict[str, Any] = {"verdict": "pick"}
REJECT: dict[str, Any] = {"verdict": "reject"}


def judge(output: Path, file: Path, **verdicts: dict[str, Any]) -> Path:
    """Write a verdicts file.

    Args:
        output: the output folder.
        file: where to.
        **verdicts: what is decided, by the clips' names without their extension. A clip that doesn't exist gets a
            hash that no clip has.
    """
    clips = {}
    for number, (name, verdict) in enumerate(verdicts.items()):
        path = output / f"{name}.mp4"
        digest = sha256(path.read_bytes() if path.exists() else name.encode()).hexdigest()
        clips[digest] = {"file": path.name, "at": 1_790_000_000 + number} | verdict
    exported = {"verdicts": 1, "folder": output.name, "exported_at": 1_790_001_000, "clips": clips}
    file.write_text(json.dumps(exported))
    return file
