"""The clips of an output folder as one HTML page, playable and searchable, that needs only a browser.

Nothing that came from a batch file or from the service becomes markup. Jobs are JSON in a script element that is not
executed, with every `<` escaped, and the script adds them to the page as text. The content security policy allows this
script and this style by their hashes, and no network access.

Rows are written one at a time. The script makes cards as they scroll into view, and a video has a source only while it
is near the window, since browsers limit the number of players.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from importlib import resources
from os import fsync
from pathlib import Path
from string import Template

from wan_async.errors import Unusable
from wan_async.gallery.rows import GROUPS, dollars, group_of, lines_of, parameters
from wan_async.journal.base import FILE
from wan_async.journal.homes import homes_of
from wan_async.journal.reports import GalleryReport, gallery_report
from wan_async.locations import Location

NAME = "gallery.html"


def write(output: Path, *, home: Path | None = None) -> Path:
    """Write the gallery of an output folder, replacing an older one. A run in progress is not disturbed.

    Args:
        output: the folder of the clips.
        home: the journal's folder; by default those in `output`: the run's, and those of `generate`.

    Returns:
        The page's path.

    Raises:
        Unusable: there is no journal, it can't be read, or the page can't be written.
    """
    page = output / NAME
    # no lock is held here: each writer needs a file of its own
    part = page.with_name(f"{NAME}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as stack:
        reports = read_journals(stack, output, home)
        try:
            with part.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
                file.writelines(html(reports, output.resolve().name))
                file.flush()
                fsync(file.fileno())
            part.replace(page)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unusable(f"{page} can't be used: {error.strerror or error}") from None
            raise
    return page


def read_journals(stack: ExitStack, output: Location, home: Path | None) -> list[GalleryReport]:
    """Read the journals of an output folder: the run's, which stays open until `stack` closes, then `generate`'s.

    Args:
        stack: closes the run's journal, whose items are read while the page is written.
        output: the folder of the clips.
        home: the only journal's folder, if it is not in `output`.

    Raises:
        Unusable: there is no journal, or one of them can't be read.
    """
    run, *single = homes_of(output) if home is None else [home]
    reports = [report] if (report := stack.enter_context(gallery_report(run))) else []
    for each in single:  # of one job each; there may be more of them than a process may have files open
        with gallery_report(each) as report:
            if report:
                reports.append(replace(report, items=list(report.items)))
    if not reports:
        raise Unusable(f"there is no journal at {run / FILE}: is this an output folder of a run?")
    return reports


def html(reports: Sequence[GalleryReport], title: str) -> Iterator[str]:
    """The page's text, piece by piece: the head with the totals, the rows, the script.

    Args:
        reports: what the journals hold.
        title: the output folder's name.
    """
    style, script = _asset("style.css"), _asset("script.js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; media-src 'self' file:; img-src 'self' file:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    groups: Counter[str] = Counter()
    for report in reports:
        for state, count in report.states.items():
            groups[group_of(state)] += count
    settled = sum(report.money.settled for report in reports)
    reserved = sum(report.money.reserved for report in reports)
    values = {
        "policy": policy,
        "title": escape(title),
        "style": style,
        "script": script,
        "totals": " · ".join(_totals(groups, settled, reserved)),
        "chips": "".join(_chips(groups)),
        "parameters": escape(json.dumps(parameters())),
    }
    before, after = _asset("template.html").split("$rows")
    yield Template(before).substitute(values)
    for report in reports:
        yield from lines_of(report.items)
    yield Template(after).substitute(values)


def _totals(groups: Counter[str], settled: int, reserved: int) -> Iterator[str]:
    clips = groups["stored"] + groups["earlier"]
    yield f"<b>{clips:,}</b> {'clip' if clips == 1 else 'clips'}"
    yield f"<b>{dollars(settled)}</b> spent"
    if reserved:
        yield f"<b>{dollars(reserved)}</b> reserved"
    now = datetime.now(UTC)
    yield f'as of <time datetime="{now:%Y-%m-%dT%H:%M:%SZ}">{now:%Y-%m-%d %H:%M} UTC</time>'


def _chips(groups: Counter[str]) -> Iterator[str]:
    yield f'<button type="button" data-group="" aria-pressed="true">all <b>{groups.total():,}</b></button>'
    for group in GROUPS:
        if groups[group]:
            yield (
                f'<button type="button" data-group="{group}" aria-pressed="false">'
                f"{group} <b>{groups[group]:,}</b></button>"
            )


def _asset(name: str) -> str:
    return resources.files("wan_async.gallery").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
