"""`init`: write a commented batch file for a folder of images."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from wan_async import errors
from wan_async.batch.captions import Captions
from wan_async.batch.image_labels import apart
from wan_async.batch.images import check_image
from wan_async.batch.reader import images_of_folder
from wan_async.batch.schema import schema
from wan_async.batch.starter_file import Entry, starter
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import say
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.model import WAN
from wan_async.domain.validation import fault_of_path, fault_of_prompt

SCHEMA = "wan-async.schema.json"


def init(args: argparse.Namespace) -> ExitCode:
    """Write a batch file with a job for each image of a folder, and the schema that editors check it by.

    Raises:
        errors.InvalidBatch: there are no images, a caption can't be used, or a file of that name exists.
        errors.Unusable: a file can't be written.
    """
    folder: Path = args.folder
    file = args.output or _beside(folder)
    described = file.with_name(SCHEMA)
    text_of_schema = json.dumps(schema(), indent=2) + "\n"
    for path in (file, described):
        if os.path.lexists(path) and not (path is described and _holds(path, text_of_schema)):
            message = "exists already: move it away, or write to another file with -o"
            raise errors.InvalidBatch([errors.Problem(str(path), message)])
    images, notes = images_of_folder(folder, recursive=args.recursive)
    entries = _entries(images, folder, file)
    if all(entry.fault for entry in entries):
        raise errors.InvalidBatch([errors.Problem("", entry.fault) for entry in entries])
    for note in (*notes, *(f"{entry.fault}: its job is a comment" for entry in entries if entry.fault)):
        say(sanitise(f"note: {note}"))
    output = f"outputs/{file.stem}"
    text = starter(entries, WAN, schema=SCHEMA, file=str(file), output=output)
    try:
        with described.open("w", encoding="utf-8") as stream:
            stream.write(text_of_schema)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise errors.Unusable(f"{file} can't be written: {error.strerror or error}") from None
    made = [entry for entry in entries if not entry.fault]
    missing = sum(not entry.prompt for entry in made)
    jobs = f"{len(made)} job{'s' * (len(made) != 1)}"
    prompts = f"{missing} prompt{'s' * (missing != 1)} to fill in" if missing else "every prompt from its caption"
    print(sanitise(f"{file}: {jobs}, {prompts}; then: wan-async plan {file}"))
    print(sanitise(f"{described}: what editors check it by"))
    return ExitCode.SUCCESS


def _beside(folder: Path) -> Path:
    """The batch file for a folder: beside it, under its name; in it if it has none, as `.`."""
    return folder / "batch.yaml" if folder.name in {"", ".."} else folder.with_name(f"{folder.name}.yaml")


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def _entries(images: list[str], folder: Path, file: Path) -> list[Entry]:
    captions, names = Captions(folder), apart(images)
    entries: list[Entry] = []
    problems: list[errors.Problem] = []
    for image in images:
        try:
            caption = captions.of(image) or ""
        except errors.InvalidBatch as error:
            problems += [problem for problem in error.problems if problem not in problems]
            continue
        except ValueError as error:
            problems.append(errors.Problem(image, str(error)))
            continue
        fault = fault_of_path(image)
        if fault is None and (wrong := fault_of_prompt(caption)):
            fault = f"its caption {wrong}"
        if fault:
            problems.append(errors.Problem(image, fault))
            continue
        # Braces in a caption are sent as they are; in a prompt they may be placeholders.
        prompt = "{caption}" if "{" in caption else caption
        entries.append(Entry(_from(image, file.parent), prompt, names.get(image, ""), check_image(image) or ""))
    if problems:
        raise errors.InvalidBatch(problems)
    return entries


def _from(image: str, folder: Path) -> str:
    """The path of an image from a folder; the whole path where there is none, as to another drive."""
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:
        return Path(image).resolve().as_posix()
