"""What lies beside the clips: `NAME.json` for each, and `results.jsonl` for the folder.

Both are written whole, made durable, and put in place by rename: a reader never meets half of one. Blocking: call from
a thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from wan_async.filesystem import Files, refuse_link


def write_json(path: Path, content: Mapping[str, object], files: Files) -> None:
    """`content` as a JSON file that people can read, durable when this returns.

    Raises:
        OSError: as the disk says, or `IsALink`; what was there before is untouched.
    """
    _replace(path, [json.dumps(content, indent=2, ensure_ascii=False) + "\n"], files)


def write_lines(path: Path, rows: Iterable[Mapping[str, object]], files: Files) -> None:
    """A JSON line for each of `rows`, durable when this returns.

    Raises:
        OSError: as the disk says, or `IsALink`; what was there before is untouched.
    """
    _replace(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows), files)


def _replace(path: Path, texts: Iterable[str], files: Files) -> None:
    part = path.with_name(path.name + ".tmp")
    for each in (path, part):
        refuse_link(each)
    files.unlink(part)
    with files.open(part) as file:
        batch: list[bytes] = []
        for text in texts:
            batch.append(text.encode("utf-8", "replace"))
            if len(batch) == 1000:
                files.write(file, b"".join(batch))
                batch.clear()
        files.write(file, b"".join(batch))
        files.fsync(file)
    files.replace(part, path)
    files.fsync_folder(path.parent)
