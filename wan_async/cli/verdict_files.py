"""The verdicts files of a command: those that it was given, or those in the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wan_async.gallery import verdicts
from wan_async.gallery.verdicts import Verdicts
from wan_async.journal.stored_clips import StoredClip
from wan_async.outputs.base import sidecar_name

PATTERN = "verdicts*.json"


def verdicts_for(output: Path, clips: Sequence[StoredClip], files: Sequence[Path] | None) -> Verdicts | None:
    """The verdicts of some files, or of those in the output folder; None if there are none.

    Args:
        output: the output folder.
        clips: its clips, whose sidecars are no verdicts whatever they are called.
        files: the files; None for those in the output folder.

    Raises:
        errors.InvalidBatch: a file holds no verdicts.
        errors.Unusable: one can't be read.
    """
    if files is None:
        sidecars = {sidecar_name(clip.first_file) for clip in clips}
        files = sorted(path for path in output.glob(PATTERN) if path.name not in sidecars)
    return verdicts.read_all(files) if files else None
