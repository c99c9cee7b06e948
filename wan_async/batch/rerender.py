"""A batch file that renders stored clips again: at another resolution, with other seeds. Blocking; writes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wan_async.batch import parser, placeholders
from wan_async.batch.batch_folder import BatchFolder
from wan_async.batch.images import digest
from wan_async.batch.missing_values import fault_of_cell
from wan_async.batch.starter_file import line, quoted
from wan_async.domain.job import image_of
from wan_async.domain.model import RESOLUTION, SEED, Model
from wan_async.domain.naming import folded, safe_name
from wan_async.domain.text import shown
from wan_async.domain.validation import fault_of_id, fault_of_image, fault_of_path, is_url
from wan_async.errors import InvalidBatch, Problem
from wan_async.journal.stored_clips import StoredClip

_URL_MARK = "url:"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different from the clips.

    Attributes:
        resolution: of all clips; None for that of each.
        seeds: of all clips, each with every one of them.
        further: how many further seeds each clip is rendered with, that no clip of the same image and texts has.
    """

    resolution: str | None = None
    seeds: Sequence[int] = ()
    further: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A job of the batch file.

    Attributes:
        id: its id, unlike those of the others.
        image: the path of a local image, or a URL; empty without one.
        values: its other parameters by their names in a batch.
        clips: the clips that it is made from, with a remark on each.
    """

    id: str
    image: str
    values: Mapping[str, Any]
    clips: list[tuple[StoredClip, str]]


@dataclass(frozen=True, slots=True)
class Rerender:
    """The jobs of a batch file, and why clips are not among them."""

    entries: list[Entry]
    problems: list[Problem]


@dataclass(slots=True)
class _Images:
    """Finds the images of clips, and reads each file once."""

    output: Path
    digests: dict[str, str | None] = field(default_factory=dict)

    def of(self, clip: StoredClip, further: Sequence[str]) -> str:
        """The path or URL of a clip's image; empty if it has none.

        Raises:
            ValueError: it is not there any more, in words.
        """
        if not clip.image:
            return ""
        if clip.image.startswith(_URL_MARK):
            return clip.image.removeprefix(_URL_MARK)
        places = list(dict.fromkeys([*clip.image_files, *further]))
        for place in places:
            if f"sha256:{self._digest(place)}" == clip.image:
                if fault := fault_of_path(place):
                    raise ValueError(f"its image {fault}")
                return place
        if not places:
            raise ValueError("the journal does not say where its image is")
        names = " and ".join(shown(place, whole=True) for place in places[:2])
        if all(self.digests[place] is None for place in places):
            raise ValueError(f"its image is not at {names} any more")
        raise ValueError(f"its image {names} has changed since it was rendered")

    def _digest(self, path: str) -> str | None:
        if path not in self.digests:
            try:
                self.digests[path] = digest(path).sha256
            except ValueError:
                self.digests[path] = None
        return self.digests[path]


def rerender(
    clips: Sequence[tuple[StoredClip, str]],
    known: Sequence[StoredClip],
    changes: Changes,
    model: Model,
    output: Path,
    further_images: Mapping[str, str],
) -> Rerender:
    """Make the jobs that render clips again. Clips that would be rendered alike are one job.

    Args:
        clips: the clips, each with a remark for people.
        known: all clips of their folder, whose seeds are not free.
        changes: what is to be different.
        model: the model that made them.
        output: their folder.
        further_images: where their images may be, too, by the clips' files.
    """
    images, problems = _Images(output), []
    taken = _Seeds(known, model)
    found: dict[tuple[str, ...], Entry] = {}
    ids: set[str] = set()
    for clip, remark in clips:
        try:
            image = images.of(clip, [further_images[clip.file]] if clip.file in further_images else [])
            values = _values(clip, model)
        except ValueError as error:
            problems.append(Problem(clip.file, str(error)))
            continue
        for seed in taken.of(clip, changes):
            varied = values | {SEED: seed} | ({RESOLUTION: changes.resolution} if changes.resolution else {})
            content = (clip.image, *map(str, varied.values()))
            if content in found:
                found[content].clips.append((clip, remark))
                continue
            name = _free(_id(clip, values, varied), ids)
            found[content] = Entry(name, image, varied, [(clip, remark)])
    return Rerender(list(found.values()), problems)


def batch_text(entries: Sequence[Entry], model: Model, *, file: Path, output: str, head: Sequence[str]) -> str:
    """The text of a batch file, which was read back: `plan` accepts it, and its jobs are the entries.

    Args:
        entries: its jobs.
        model: the model that it is for.
        file: where it will be written; images are relative to its folder.
        output: its output folder, relative to it.
        head: what is said at its beginning, a line each.

    Raises:
        InvalidBatch: a job can't be written down.
    """
    lines = [f"# {_comment(each)}".rstrip() for each in head]
    lines += ["", line("", "output", quoted(output), "the folder of the clips, from this file"), "", "jobs:"]
    for number, entry in enumerate(entries):
        lines += [""] if number else []
        lines += [f"  # {_comment(' · '.join(filter(None, [clip.file, remark])))}" for clip, remark in entry.clips]
        image = _image_in(file.parent, entry.image)
        lines.append(line("  - ", "id", quoted(entry.id)))
        lines += [line("    ", model.image_name, quoted(image))] if image else []
        lines += [line("    ", name, _written(value)) for name, value in entry.values.items() if value != ""]
    text = "\n".join([*lines, ""])
    _check(text, entries, file)
    return text


class _Seeds:
    """The seeds that clips of the same image and texts have, and those that are free."""

    def __init__(self, known: Sequence[StoredClip], model: Model) -> None:
        self._model = model
        self._wire = model.by_name[SEED].wire
        self._used: dict[tuple[str, ...], set[int]] = {}
        for clip in known:
            self._used.setdefault(self._shot(clip), set()).add(self._own(clip))

    def of(self, clip: StoredClip, changes: Changes) -> list[int]:
        """The seeds with which a clip is rendered again."""
        if not changes.further:
            return list(changes.seeds) or [self._own(clip)]
        used, found, seed = self._used.get(self._shot(clip), set()), list[int](), self._own(clip)
        lowest, highest = self._model.by_name[SEED].limits or (0, seed + changes.further + len(used))
        while len(found) < changes.further:
            seed = seed + 1 if seed < highest else lowest
            if seed not in used:
                found.append(seed)
        return found

    def _own(self, clip: StoredClip) -> int:
        try:
            return int(clip.form.get(self._wire, ""))
        except ValueError:
            return int(self._model.by_name[SEED].default or 0)

    def _shot(self, clip: StoredClip) -> tuple[str, ...]:
        return (clip.image, *(clip.form.get(self._model.by_name[name].wire, "") for name in self._model.texts))


def _values(clip: StoredClip, model: Model) -> dict[str, Any]:
    """The parameters of a clip by their names in a batch, without the image.

    Raises:
        ValueError: a text can't be written into a batch file.
    """
    values: dict[str, Any] = {}
    for name, parameter in model.by_name.items():
        if parameter.kind == "image":
            continue
        sent = clip.form.get(parameter.wire, "")
        values[name] = int(sent) if parameter.kind == "integer" and parameter.fault_of(sent) is None else sent
        if parameter.kind == "text" and (fault := _fault_of_text(sent, model.prompt_placeholders)):
            raise ValueError(f"its {name.replace('_', ' ')} {fault}")
    return values


def _fault_of_text(text: str, fields: Sequence[str]) -> str | None:
    """Why a batch file can't say a text as it was sent; None if it can."""
    if placeholders.fields_in(text, fields) or placeholders.fault_of_placeholders(text, fields):
        return f"holds braces that a batch file would fill in: {shown(text)}"
    return fault_of_cell(text)


def _id(clip: StoredClip, values: Mapping[str, Any], varied: Mapping[str, Any]) -> str:
    """What to call a clip's new render: its job's id, which may name what is different now."""
    old, new = str(values[RESOLUTION]), str(varied[RESOLUTION])
    label = re.sub(rf"(?<![0-9A-Za-z]){re.escape(old)}(?![0-9A-Za-z])", new, clip.label)
    old, new = f"-seed{values[SEED]}", f"-seed{varied[SEED]}"
    if old != new:
        label = f"{label.removesuffix(old)}{new}"
    return label if fault_of_id(label) is None else safe_name(label)


def _free(wanted: str, ids: set[str]) -> str:
    """An id whose clip's name no other has, also where case doesn't count."""
    number, name = 1, wanted
    while folded(safe_name(name)) in ids:
        number += 1
        name = f"{wanted}-{number}"
    ids.add(folded(safe_name(name)))
    return name


def _image_in(folder: Path, image: str) -> str:
    """An image as a batch file in `folder` names it: relative if that finds the same file."""
    if not image or is_url(image):
        return image
    try:
        path = Path(os.path.relpath(image, folder.absolute())).as_posix()
        if not os.path.samefile(folder / path, image):  # noqa: PTH121 - a folder may be a symbolic link
            path = Path(image).as_posix()
    except (OSError, ValueError):  # on another drive
        path = Path(image).as_posix()
    is_plain = fault_of_image(path) is None and not is_url(path) and not path.startswith("~")
    return path if is_plain else f"./{path}"


def _written(value: object) -> str:
    return str(value) if isinstance(value, int) else quoted(str(value))


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _check(text: str, entries: Sequence[Entry], file: Path) -> None:
    """Read the text back.

    Raises:
        InvalidBatch: `plan` would refuse it, or a job is not what it should be.
    """
    jobs = [one.job for one in parser.parse(text, kind="yaml", source=str(file), folder=BatchFolder(file.parent)).jobs]
    problems = []
    for entry, job in zip(entries, jobs, strict=True):
        image = image_of(job) or ""
        found = {name: getattr(job, name) for name in entry.values}
        same_image = image == entry.image or (image and not is_url(image) and os.path.samefile(image, entry.image))  # noqa: PTH121 - as above
        if job.id != entry.id or found != dict(entry.values) or not same_image:
            problems.append(Problem(entry.clips[0][0].file, "can't be written into a batch file as it was sent"))
    if problems:
        raise InvalidBatch(problems)
