"""Distinct names for images of one stem: `IMG_1.HEIC` and `IMG_1.JPG`, `cats/1.png` and `dogs/1.png`."""

from __future__ import annotations

import os
from collections.abc import Iterable

from wan_async.domain.naming import folded, safe_name, stem_of
from wan_async.domain.validation import is_url


def apart(images: Iterable[str]) -> dict[str, str]:
    """Names for images whose stems are equal.

    Args:
        images: what a folder, a glob or an axis of a matrix gave: resolved paths, and URLs, which are left alone.

    Returns:
        A name for each image whose stem another image has: the stem with the extension, with the folders below the
        images' common one, or with both. `Namer` refuses what is equal even then.
    """
    groups: dict[str, list[str]] = {}
    for image in images:
        if not is_url(image):
            groups.setdefault(folded(safe_name(stem_of(image))), []).append(image)
    found: dict[str, str] = {}
    for group in groups.values():
        if len(group) > 1:
            found |= _distinct(group)
    return found


def _distinct(images: list[str]) -> dict[str, str]:
    folders = [os.path.dirname(image) for image in images]  # noqa: PTH120 - text in, text out
    shared = _shared(folders)
    counts: dict[str, int] = {}
    for folder in folders:
        counts[folder] = counts.get(folder, 0) + 1
    found = {}
    for image, folder in zip(images, folders, strict=True):
        steps = [step for step in folder[len(shared) :].replace("\\", "/").split("/") if step]
        suffix = os.path.splitext(image)[1].lower() if counts[folder] > 1 else ""  # noqa: PTH122 - likewise
        found[image] = "-".join([*steps, stem_of(image), *([suffix[1:]] if len(suffix) > 1 else [])])
    return found


def _shared(folders: list[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # several drives, or absolute and relative paths
        return ""
