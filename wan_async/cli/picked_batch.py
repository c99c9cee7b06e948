"""The batch file that `pick -o` writes: it renders the picked clips again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wan_async import errors
from wan_async.batch.rerender import Changes, Entry, Rerender, batch_text, rerender
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import say
from wan_async.cli.resume_command import quoted
from wan_async.domain.model import WAN
from wan_async.gallery.picks import Pick
from wan_async.journal.base import FOLDER
from wan_async.journal.image_paths import image_path
from wan_async.journal.stored_clips import StoredClip
from wan_async.outputs.base import sidecar_name


def write_batch(
    file: Path, output: Path, picks: Sequence[Pick], clips: Sequence[StoredClip], changes: Changes
) -> Rerender:
    """Write a batch file with a job for each pick. Picks whose image is gone or has changed are left out.

    Args:
        file: where to; it must not exist.
        output: the output folder of the clips.
        picks: the clips.
        clips: all clips of the folder.
        changes: what is to be different.

    Returns:
        Its jobs, and why picks are not among them. If there are no jobs, no file was written.

    Raises:
        errors.InvalidBatch: the file exists.
        errors.Unusable: it can't be written.
    """
    if os.path.lexists(file):
        message = "exists already: move it away, or write to another file with -o"
        raise errors.InvalidBatch([errors.Problem(str(file), message)])
    images = {
        one.clip.file: image_path(output, str(recorded))
        for one in picks
        if (recorded := read_sidecar(output, one.clip).get("image_file"))
    }
    made = rerender([(one.clip, _remark(one)) for one in picks], clips, changes, WAN, output, images)
    if not made.entries:
        return made
    head = [
        f"Clips of {output} that were picked, to be rendered again{_described(changes)}.",
        "Above each job is the clip that it comes from.",
        f"  {quoted(['wan-async', 'plan', str(file)])}",
        "      shows what it would do and cost; spends nothing",
        f"  {quoted(['wan-async', 'run', str(file)])}",
        "      renders it; the same command again goes on where the last one stopped",
    ]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # before the paths of images from there are looked at
        text = batch_text(made.entries, WAN, file=file, output=_own_output(file, output), head=head)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise errors.Unusable(f"{file} can't be written: {error.strerror or error}") from None
    typed = quoted(["wan-async", "plan", str(file)])
    say(sanitise(f"{file}: {len(made.entries)} job{'s' * (len(made.entries) != 1)}; then: {typed}"))
    _note_what_is_odd(made.entries, clips, output)
    return made


def read_sidecar(output: Path, clip: StoredClip) -> dict[str, Any]:
    """The sidecar of a clip's attempt; empty if it is gone or none of ours."""
    try:
        content = json.loads((output / sidecar_name(clip.first_file)).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and "sha256" in content else {}


def _note_what_is_odd(entries: Sequence[Entry], clips: Sequence[StoredClip], output: Path) -> None:
    others = [parameter for parameter in WAN.parameters if parameter.kind != "image"]
    existing = {(clip.image, *(clip.form.get(each.wire, "") for each in others)) for clip in clips}
    alike = [
        entry
        for entry in entries
        if (entry.clips[0][0].image, *(str(entry.values[each.name]) for each in others)) in existing
    ]
    if alike:
        what = "1 job asks for a clip that is" if len(alike) == 1 else f"{len(alike)} jobs ask for clips that are"
        say(
            f"note: {what} here already, and would be paid again: --resolution, --seed or --seeds makes another one, "
            "--copy keeps it"
        )
    home = os.path.join(os.path.abspath(output), FOLDER, "")  # noqa: PTH100, PTH118 - ends in a separator
    if any(entry.image.startswith(home) for entry in entries):
        say(sanitise(f"note: some of its images are only in {output / FOLDER}: keep that folder until the run ends"))


def _described(changes: Changes) -> str:
    what = [f"at {changes.resolution}"] if changes.resolution else []
    if changes.seeds:
        what.append(f"with seed{'s' * (len(changes.seeds) != 1)} {', '.join(map(str, changes.seeds))}")
    if changes.further:
        what.append(f"with {changes.further} further seed{'s' * (changes.further != 1)} each")
    return f" {' '.join(what)}" if what else ""


def _own_output(file: Path, output: Path) -> str:
    """A folder for the new clips, relative to the batch file, that is not that of the picked ones."""
    wanted = f"outputs/{file.stem}"
    is_taken = os.path.realpath(file.parent / wanted) == os.path.realpath(output)
    return f"{wanted}-again" if is_taken else wanted


def _remark(one: Pick) -> str:
    stars = "\N{BLACK STAR}" * (one.verdict.stars or 0)
    return " · ".join(filter(None, [stars, one.verdict.note]))
