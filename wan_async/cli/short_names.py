"""Names of jobs that are too long for their column, cut so that they can still be told apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from rich.cells import set_cell_size

from wan_async.cli.display_text import cells_of, fit_width

_SAME = "\0"
_SHORT = 8
"""Parts of a name up to this length are shown whole."""
_PARTS = re.compile(r"([-_. ]+)")


def short_names(names: Collection[str], width: int) -> dict[str, str]:
    """Fit names to a column of `width` cells.

    A name that is too long is cut in the middle. Names that would then be equal keep their start and the parts in which
    they differ: `holida…0004…480P`.
    """
    short = {name: fit_width(name, width) for name in names}
    times = Counter(short.values())
    families: dict[int, list[str]] = {}
    for name in names:
        if times[short[name]] > 1:
            families.setdefault(len(_PARTS.split(name)), []).append(name)
    for family in families.values():
        for name, body in zip(family, _differences(family), strict=True):
            start = set_cell_size(name, max(0, width - cells_of(body) - 1))
            short[name] = fit_width(body if name.startswith(body) else f"{start}…{body}", width)
    return short


def _differences(names: Sequence[str]) -> list[str]:
    """The parts in which names differ that have as many parts."""
    columns = []
    for column in zip(*map(_PARTS.split, names), strict=True):
        if len(distinct := set(column)) == 1:
            columns.append([_SAME] * len(names))
        elif max(map(len, distinct)) <= _SHORT:
            columns.append(list(column))
        else:
            begin, end = _common(distinct), _common({part[::-1] for part in distinct})
            columns.append([_SAME + part[begin : max(begin, len(part) - end)] + _SAME for part in column])
    return [re.sub(f"{_SAME}+", "…", "".join(parts).strip(_SAME)) for parts in zip(*columns, strict=True)]


def _common(texts: Collection[str]) -> int:
    """How many characters texts have in common at their start."""
    places = enumerate(zip(*texts, strict=False))
    return next((place for place, chars in places if len(set(chars)) > 1), min(map(len, texts)))
