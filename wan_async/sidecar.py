"""What lies beside the clips: `NAME.json` for each, and `results.jsonl` for the folder.

Both are written whole, made durable, and put in place by rename: a reader never meets half of one. Blocking: call from a
thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from wan_async.download import FILES, Files


def write_json(path: Path, content: Mapping[str, object], files: Files = FILES) -> None:
    """`content` as a JSON file that people can read, durable when this returns."""
    _replace(path, [json.dumps(content, indent=2, ensure_ascii=False) + "\n"], files)
