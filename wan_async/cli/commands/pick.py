"""`pick`: list the clips that a review chose, copy them, or write a batch file that renders them again."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from wan_async import errors
from wan_async.batch.rerender import Changes
from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import named_journal, refuse_flags
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import SHOWN_PROBLEMS, of_this_command, print_json_line, say
from wan_async.cli.picked_batch import read_sidecar, write_batch
from wan_async.cli.resume_command import quoted
from wan_async.cli.verdict_files import PATTERN, verdicts_for
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.model import RESOLUTION, SEED
from wan_async.gallery.picks import Pick, chosen
from wan_async.journal.image_paths import ImagePaths, image_path
from wan_async.journal.journal_location import public_address
from wan_async.journal.stored_clips import StoredClip, stored_clips
from wan_async.outputs.copies import Copies


def pick(args: argparse.Namespace) -> ExitCode:
    """List the chosen clips, copy them, or write a batch file of them; 1 if some of them are left out.

    Raises:
        errors.InvalidBatch: there are no verdicts, nothing was chosen, or a file would be overwritten.
        errors.Unusable: the journal can't be read, or a file not be written.
    """
    if args.output is None:
        refuse_flags(args, (RESOLUTION, SEED, "seeds"), "is for the batch file that -o writes: name it")
    output: Path = args.folder
    clips = stored_clips(output, named_journal(args, output))
    verdicts = verdicts_for(output, clips, args.verdicts)
    if verdicts is None:
        kept = ["--journal", public_address(args.journal)] if is_database(args.journal) else []
        page = sanitise(quoted(["wan-async", "gallery", str(output), *kept]))
        message = (
            f"there is no {PATTERN}: judge the clips on the review page ({page}), export the verdicts "
            "there, and name the file with --verdicts or put it here"
        )
        raise errors.InvalidBatch([errors.Problem(str(output), message)])
    found = chosen(output, clips, verdicts, args.stars)
    if not found.picks and not found.gone:
        what = "no clip is picked" if args.stars is None else f"no clip has {args.stars} stars"
        raise errors.InvalidBatch([errors.Problem(str(output), f"{what} in the verdicts")])
    again = "enqueue the batch again" if is_database(args.journal) else f"run the batch again with -o {output}"
    problems = [errors.Problem(gone.name, _why_gone(output, again, is_known=bool(gone.file))) for gone in found.gone]
    facts: dict[str, object] = {}
    if args.copy is not None:
        copies, faults = _copy(output, found.picks, args.copy, as_json=args.json)
        problems += faults
        facts["copies"] = copies
    if args.output is not None:
        changes = Changes(args.resolution, tuple(args.seed or ()), args.seeds or 0)
        made = write_batch(args.output, output, found.picks, clips, changes)
        problems += made.problems
        facts |= {"batch": str(args.output) if made.entries else None, "jobs": len(made.entries)}
    if args.json:
        _print_json(output, found.picks, problems, facts)
    elif args.copy is None and args.output is None:
        for one in found.picks:
            print(sanitise(str(output / one.clip.file)))
    for problem in problems[:SHOWN_PROBLEMS]:
        say(sanitise(f"left out: {problem}"))
    if len(problems) > SHOWN_PROBLEMS:
        say(f"... and {len(problems) - SHOWN_PROBLEMS} more; --json has all")
    return ExitCode.FAILURES if problems else ExitCode.SUCCESS


def _why_gone(output: Path, again: str, *, is_known: bool) -> str:
    if is_known:
        return f"its file is gone or cut: {again}, which fetches it for free"
    return f"is no clip of {output}: it may be of another folder, or was given up since it was judged"


def _print_json(
    output: Path, picks: Sequence[Pick], problems: Sequence[errors.Problem], facts: Mapping[str, object]
) -> None:
    common = of_this_command()
    for one in picks:
        clip, verdict = one.clip, one.verdict
        described = {"job": clip.job, "id": clip.label, "file": clip.file, "sha256": clip.sha256}
        decided = {"verdict": verdict.verdict, "stars": verdict.stars, "note": verdict.note or None}
        print_json_line({"event": "pick", **common, **described, **decided})
    left_out = [{"file": problem.where, "reason": problem.message} for problem in problems]
    print_json_line(
        {"event": "picks", **common, "output": str(output), "picks": len(picks), "left_out": left_out, **facts}
    )


def _copy(
    output: Path, picks: Sequence[Pick], folder: Path, *, as_json: bool
) -> tuple[list[str], list[errors.Problem]]:
    """Copy clips with their sidecars; returns the copies' paths, and why clips were not copied.

    Raises:
        errors.InvalidBatch: the folder is the output folder itself.
        errors.Unusable: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_itself = os.path.samefile(folder, output)  # noqa: PTH121 - either may be a symbolic link
    except OSError as error:
        raise errors.Unusable(f"{folder} can't be made: {error.strerror or error}") from None
    if is_itself:
        raise errors.InvalidBatch([errors.Problem("--copy", f"{folder} is the output folder itself: name another")])
    paths: list[str] = []
    problems: list[errors.Problem] = []
    new = 0

    async def copy_all() -> None:
        nonlocal new
        copies = Copies(folder)
        for one in picks:
            sidecar = _Sidecar(output, folder, one.clip)
            try:
                made = await copies.copy(output / one.clip.file, one.clip.sha256, sidecar.text if sidecar else None)
            except errors.JobFailed as error:
                problems.append(errors.Problem(one.clip.file, error.message))
                continue
            paths.append(str(folder / made.name))
            new += made.is_new
            if not as_json:
                print(sanitise(paths[-1]))

    anyio.run(copy_all)
    same = f", {len(paths) - new} of them were there already" if new < len(paths) else ""
    say(sanitise(f"{len(paths)} clip{'s' * (len(paths) != 1)} in {folder}{same}"))
    return paths, problems


class _Sidecar:
    """The sidecar of a copy; false if the clip has none.

    Args:
        output: the folder of the clip.
        folder: that of the copy.
        clip: the clip.
    """

    def __init__(self, output: Path, folder: Path, clip: StoredClip) -> None:
        self._folder = folder
        self._clip = clip
        self._given: dict[str, Any] = read_sidecar(output, clip)
        image = self._given.get("image_file")
        self._image = image_path(output, image) if isinstance(image, str) else None

    def __bool__(self) -> bool:
        return bool(self._given)

    def text(self, name: str) -> Iterator[str]:
        """Its text for a copy of this name."""
        own: dict[str, object] = {
            "file": name,
            "sha256": self._clip.sha256,
            "bytes": self._clip.bytes,
            "further_files": [],
            "image_file": None if self._image is None else ImagePaths(self._folder).of_file(self._image),
        }
        yield json.dumps({**self._given, **own}, indent=2, ensure_ascii=False) + "\n"
