"""The review page of an output folder: one HTML file that needs only a browser.

Nothing that came from a batch file or from the service becomes markup. Jobs are JSON in a script element that is not
executed, with every `<` escaped, and the script adds them to the page as text. The content security policy allows this
script and this style by their hashes, and no network access.

Rows are written one at a time. The script has only those elements on the page that are near the window, draws a frame
of each clip with a few video elements, and so needs about as much memory for 10,000 clips as for 100.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from wan_async.gallery.page_data import WAITING, Rows, data_text, dollars, group_of, parameters, states
from wan_async.gallery.source_images import Sources
from wan_async.gallery.texts import TEXTS, text
from wan_async.gallery.verdicts import Verdicts
from wan_async.journal.base import FILE, FOLDER, Home
from wan_async.journal.journal_location import homes_of
from wan_async.journal.last_command import last_command
from wan_async.journal.reports import GalleryReport, gallery_report
from wan_async.output_locations import Location

NAME = "gallery.html"
NO_VERDICTS = Verdicts()
NO_COMMAND: Mapping[str, object] = {"batch": None, "out": None, "sandbox": False, "flags": []}
"""What is known of a run's command where nothing is: its batch, its output folder, and its flags."""
SCRIPTS = (
    "dom",
    "data",
    "verdicts",
    "url_state",
    "search",
    "facets",
    "filter_panel",
    "posters",
    "grid_layout",
    "grid_cells",
    "grid",
    "player",
    "loupe_and_compare",
    "hand_over",
    "commands",
    "batch_file",
    "jobs_without_clip",
    "contact_sheet",
    "auto_reload",
    "keyboard",
    "main",
)
"""The files of the script in their order: each uses those before it, and functions of others once all are loaded."""


def write(
    output: Path,
    *,
    home: Home | None = None,
    verdicts: Verdicts | None = None,
    is_running: bool = False,
    is_often_refused: Callable[[str], bool] = lambda _: False,
) -> Path:
    """Write the gallery of an output folder, replacing an older one. A run in progress is not disturbed.

    Args:
        output: the folder of the clips.
        home: where the journal is kept; by default in `output`: the run's, and those of `generate`.
        verdicts: of an earlier review; the page merges them with what the browser knows.
        is_running: whether a run is on that writes the page anew: it reloads itself then, when it is idle.
        is_often_refused: as of `Sources`.

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
                pieces = html(
                    reports,
                    output.resolve().name,
                    sources=Sources(output, is_often_refused=is_often_refused),
                    verdicts=verdicts or NO_VERDICTS,
                    is_running=is_running,
                    command=_command_of(output) if home is None else NO_COMMAND,
                )
                file.writelines(pieces)
                file.flush()
                fsync(file.fileno())
            part.replace(page)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unusable(f"{page} can't be used: {error.strerror or error}") from None
            raise
    return page


def read_journals(stack: ExitStack, output: Location, home: Home | None) -> list[GalleryReport]:
    """Read the journals of an output folder: the run's, which stays open until `stack` closes, then `generate`'s.

    Args:
        stack: closes the run's journal, whose items are read while the page is written.
        output: the folder of the clips.
        home: where the only journal is kept, if not in `output`.

    Raises:
        Unusable: there is no journal, or one of them can't be read.
    """
    run: Home
    single: Sequence[Path] = ()
    if home is None:
        run, *single = homes_of(output)
    else:
        run = home
    reports = [report] if (report := stack.enter_context(gallery_report(run))) else []
    for each in single:  # of one job each; there may be more of them than a process may have files open
        with gallery_report(each) as report:
            if report:
                reports.append(replace(report, items=list(report.items)))
    if not reports:
        place = run / FILE if isinstance(run, Path) else run
        raise Unusable(f"there is no journal at {place}: is this an output folder of a run?")
    return reports


def html(
    reports: Sequence[GalleryReport],
    title: str,
    *,
    sources: Sources,
    verdicts: Verdicts = NO_VERDICTS,
    is_running: bool = False,
    command: Mapping[str, object] = NO_COMMAND,
) -> Iterator[str]:
    """The page's text, piece by piece: the head with the totals, the rows, the links, the script.

    All that it refers to is relative to the folder that it will be in: clips by the names that the journal has,
    images as `source_images` finds them.

    Args:
        reports: what the journals hold.
        title: the output folder's name.
        sources: finds the images of jobs.
        verdicts: of an earlier review.
        is_running: whether a run is on that writes the page anew.
        command: how its commands are called, by the names of `NO_COMMAND`.
    """
    style, script = _asset("style.css"), _script()
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
    now = datetime.now(UTC)
    as_of = text("asOf", time=f'<time datetime="{now:%Y-%m-%dT%H:%M:%SZ}">{now:%Y-%m-%d %H:%M} UTC</time>')
    facts = {
        "folder": title,
        "written_at": round(now.timestamp()),
        "running": is_running,
        "command": command,
        "parameters": parameters(),
        "states": states(),
    }
    values = {
        "policy": policy,
        "title": text("pageTitle", folder=escape(title)),
        "folder": escape(title),
        "no_script": text("noScript"),
        "style": style,
        "script": script,
        "totals": f"{' · '.join(_totals(groups, settled, reserved))}<span> · {as_of}</span>",
        "page": data_text(facts),
        "verdicts": data_text(verdicts.to_json()),
    }
    rows = Rows(sources)
    before, between, after = re.split(r"\$rows|\$links", _asset("template.html"))
    yield Template(before).substitute(values)
    for report in reports:
        yield from rows.lines(report.items)
    yield Template(between).substitute(values)
    yield from rows.links()
    yield Template(after).substitute(values)


def _command_of(output: Path) -> dict[str, object]:
    """How the last run of an output folder was called, as far as that is known."""
    if (known := last_command(output / FOLDER)) is None:
        return {**NO_COMMAND, "sandbox": (output / FOLDER / "sandbox").is_dir()}
    return {"batch": known.batch, "out": known.output, "sandbox": known.sandbox, "flags": known.flags}


def _totals(groups: Counter[str], settled: int, reserved: int) -> Iterator[str]:
    clips = groups["stored"] + groups["earlier"]
    yield text("totalClips", clips, n=f"<b>{clips:,}</b>")
    for name, others in (("totalOthers", groups.total() - clips - groups[WAITING]), ("totalWaiting", groups[WAITING])):
        if others:
            yield text(name, others, n=f"<b>{others:,}</b>")
    yield text("totalSpent", usd=f"<b>{dollars(settled)}</b>")
    if reserved:
        yield text("totalReserved", usd=f"<b>{dollars(reserved)}</b>")


def _script() -> str:
    parts = "\n".join(_asset(f"scripts/{name}.js") for name in SCRIPTS)
    return f'"use strict";\n{{\nconst TEXTS = {data_text(TEXTS)};\n{parts}}}\n'


def _asset(name: str) -> str:
    return resources.files("wan_async.gallery").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
