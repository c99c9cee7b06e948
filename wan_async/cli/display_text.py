"""Texts of the display: widths, sizes, durations, notes about events, the summary."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wan_async.cli.retry_advice import retry_advice
from wan_async.cli.statistics import IN_FLIGHT, Statistics, kind_of
from wan_async.cli.time_estimate import Eta
from wan_async.domain import events
from wan_async.domain.exit_codes import INTERRUPTIONS
from wan_async.domain.lifecycle import PROBLEMS, State

if TYPE_CHECKING:
    from rich.text import Text

GALLERY = "gallery.html"
STYLES: dict[str, str] = dict.fromkeys(PROBLEMS, "yellow") | {
    "running": "cyan", "downloading": "bright_blue", "stored": "green", "done": "green", "retrying": "yellow",
    "unknown": "yellow", "failed": "red", "missing": "red",
}  # fmt: skip
_LIMITS = {96: "account limit reached", 97: "balance too low", 429: "rate limit reached"}
_CHOICES = {
    "--adopt": "take the tasks that equal jobs over, and fetch their clips: pays nothing",
    "--ignore-unowned": "submit these jobs all the same: may pay twice",
    "--resubmit-unknown": "submit quarantined jobs again: may pay twice; without it, their tasks are looked for again",
}
_WORDS = re.compile(r" *[^ ]+| +")
_INDENT = "    "
_OF_AN_IMAGE = ("render:", "upload:", "refused:")
"""How the reasons of failures begin that an image may cause."""

Line = list[tuple[str, str]]
"""Pieces of text, each with its style."""


def sanitise(text: str) -> str:
    """Replace characters that could control a terminal: control codes, escapes, bidi overrides, newlines."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if unicodedata.category(char) == "Zs" else "\ufffd" for char in text
    )


def duration(seconds: float) -> str:
    """A length of time: `41s`, `1m 02s`, `1h 04m`, `3d 04h`."""
    whole = max(0, int(seconds))
    for unit, next_unit, size, next_size in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // next_size:02}{next_unit}"
    return f"{whole}s"


def usd(amount: Decimal) -> str:
    """An amount in US dollars: cents, and more places below a dollar, as for one clip: `$14.20`, `$0.035`."""
    whole, _, places = f"{amount:.{2 if amount >= 1 else 4 if amount >= Decimal('0.001') else 6}f}".partition(".")
    return f"${int(whole):,}.{places.rstrip('0').ljust(2, '0')}"


def size(count: float) -> str:
    """A number of bytes in decimal units: `512 B`, `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95 or (unit == "B" and count < 1000):
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def about(seconds: float, *, at_least: bool = False) -> str:
    """A remaining time at the precision of an estimate: `soon`, `45s`, `3m 20s`, `1h 04m`.

    Args:
        seconds: the time; it is rounded up.
        at_least: round it down.
    """
    if seconds < 5:
        return "soon"
    step = 5 if seconds < 60 else 10 if seconds < 600 else 60
    return duration((seconds // step if at_least else -(-seconds // step)) * step).removesuffix(" 00s")


def eta_text(eta: Eta) -> str:
    """When a run will have ended: `ETA 3m 20s`, or a range where that can't be known: `ETA 40s to 2m`."""
    if eta.is_known or about(eta.low) == about(eta.high):
        return f"ETA {about(eta.likely)}"
    low = about(eta.low, at_least=True)
    return f"ETA up to {about(eta.high)}" if eta.low < 5 else f"ETA {low} to {about(eta.high)}"


def cells_of(text: str) -> int:
    """The number of terminal cells that a text takes."""
    if text.isascii():  # most names are; without this, plain lines would load rich
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit_width(text: str, width: int, *, middle: bool = True) -> str:
    """Pad or cut a text to exactly `width` cells.

    Args:
        text: the text.
        width: in cells.
        middle: cut it in the middle, since names often differ at their end; else at the end.
    """
    from rich.cells import set_cell_size

    width = max(0, width)
    if cells_of(text) > width:
        tail = set_cell_size(text[::-1], max(0, (width - 1) // 2))[::-1] if middle else ""
        text = f"{set_cell_size(text, max(0, width - 1) - cells_of(tail))}…{tail}"
    return set_cell_size(text, width)


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, each of at most `width` cells; a word that is longer than a line is cut in its middle."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cells_of(lines[-1]) + 1 + cells_of(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word if cells_of(word) <= width else fit_width(word, width))
    return lines


class Whole(str):
    """A path or a command in a line: it is not broken, so that it can be copied."""

    __slots__ = ()


def folded(line: Line, width: int) -> list[Line]:
    """A line in parts of at most `width` cells, broken at blanks; what has none is left to the terminal."""
    parts: list[Line] = [[]]
    used = 0
    for text, style in line:
        for word in [text] if isinstance(text, Whole) else _WORDS.findall(text):
            cells = cells_of(word)
            is_apart = isinstance(word, Whole) or word.startswith(" ")
            if used and used + cells > width and is_apart and cells_of(word.lstrip()) + len(_INDENT) <= width:
                parts.append([(_INDENT, "")])
                used, word = len(_INDENT), word.lstrip()
                cells = cells_of(word)
            if parts[-1] and parts[-1][-1][1] == style:
                word = parts[-1].pop()[0] + word
            parts[-1].append((word, style))
            used += cells
    return parts


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, with columns as wide as their widest cell and the last one as it is."""
    widths = [max(map(cells_of, column)) for column in zip(*rows, strict=True)][:-1]
    return [
        "  ".join(
            [*(cell + " " * (width - cells_of(cell)) for cell, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]


def truncate(text: str, length: int = 300) -> str:
    """The start of a text, safe for a terminal; an error message may be a whole page of HTML.

    Args:
        text: any text from the service or a file.
        length: the most characters of the result.
    """
    return sanitise(text if len(text) <= length else text[: length - 1] + "…")


class Note(NamedTuple):
    """A line about an event: its level, a word for what happened, the job or place, and details."""

    level: Literal["problem", "end", "fact"]
    word: str
    subject: str
    detail: str


def note_of(event: events.Event) -> Note | None:
    """Describe an event in one line; None for samples, the start and the end."""
    match event:
        case events.Stored():
            cost = "" if event.cost_usd is None else usd(event.cost_usd)
            columns = f"{size(event.bytes):>8}  {cost:>7}  {duration(event.seconds):>7}"
            return Note("end", "stored", event.file, columns)
        case events.Failed():
            return Note("problem", "failed", event.job, f"{event.kind}: {event.message}")
        case events.Cancelled() | events.Missing() | events.Quarantined():
            return Note("problem", events.name_of(type(event)), event.job, event.reason)
        case events.Problem():
            return Note("problem", "problem", event.where, event.message)
        case events.Stopping():
            return Note("problem", "stopping", event.reason, "")
        case events.Limited():
            return Note("problem" if event.code == 97 else "fact", "limited", limit_text(event), "")
        case events.Uploaded():
            return Note("fact", "uploaded", event.job, size(event.bytes))
        case events.Submitting():
            return Note("fact", "submitting", event.job, "" if event.price_usd is None else usd(event.price_usd))
        case events.Accepted():
            return Note("fact", "adopted" if event.adopted else "accepted", event.job, f"task {event.task_id}")
        case events.Ended():
            cost = "" if event.cost_usd is None else f"  {usd(event.cost_usd)}"
            return Note("fact", "ended", event.job, f"{event.status}, exit {event.pexit}{cost}")
        case events.Retrying():
            return Note("fact", "retrying", event.job, f"{event.reason} (in {duration(event.after_seconds)})")
        case events.Unknown():
            return Note("fact", "unknown", event.job, event.reason)
    return None


def limit_text(event: events.Limited) -> str:
    """Describe a limit that is in force."""
    slots = f": {event.concurrency} at once" if event.concurrency is not None else ""
    if event.code == 96 and event.after_seconds is not None:
        return f"other programs use the account's limit (96): next try in {duration(event.after_seconds)}"
    again = f": next request in {duration(event.after_seconds)}" if event.code == 429 and event.after_seconds else slots
    return f"{_LIMITS.get(event.code, 'held back')} ({event.code}){again}"


def notices_of(statistics: Statistics, at: float) -> list[str]:
    """What is out of the ordinary now, and what the run waits for."""
    # the account's limit, reached by our own tasks, is nothing out of the ordinary
    limits = [each for each in statistics.limits(at) if each.code != 96 or each.after_seconds is not None]
    notices = [limit_text(limit) for limit in limits]
    if unknown := statistics.counts["unknown"]:
        times = [time for time in statistics.undecided_until.values() if time is not None]
        until = f", decided in {about(max(times) - at)}" if times and max(times) > at else ""
        runs, them = ("1 Run", "it") if unknown == 1 else (f"{unknown:,} Runs", "them")
        notices.append(f"{runs} without an answer: looking in the task list for what became of {them}{until}")
    if statistics.stopping is not None:
        still = sum(statistics.counts[state] for state in IN_FLIGHT)
        reason = statistics.stopping.partition(":")[0]  # the line of the event has the rest
        notices.append(f"stopping, {still:,} still running: {truncate(reason)}")
    return notices


def opening_line(event: events.Started) -> Line:
    """The first line of a run: its counts, what it will cost, budget and output folder."""
    parts = [_jobs(event.jobs)]
    if event.to_do:
        cost = "cost unknown" if event.estimate_usd is None else f"about {usd(event.estimate_usd)}"
        counts: Counter[tuple[str, Decimal]] = Counter()
        for group in event.groups:
            if group.to_do and group.price_usd is not None:
                counts[kind_of(group.name), group.price_usd] += group.to_do
        prices = price_parts(counts)
        parts.append(f"{event.to_do:,} to do, {cost}" + (f" ({', '.join(prices)})" if len(prices) > 1 else ""))
        parts += [f"{event.changed:,} of them changed (earlier clips are kept)"] if event.changed else []
    else:
        parts.append("nothing new to pay for")
    parts += [f"{event.to_fetch:,} submitted before, to fetch"] if event.to_fetch else []
    parts += [f"{event.duplicates:,} duplicate{'s' * (event.duplicates != 1)} of others"] if event.duplicates else []
    parts += [f"{event.done:,} done before"] if event.done else []
    others = event.jobs - event.done - event.to_do - event.to_fetch - event.duplicates
    parts += [f"{others:,} not in this run"] if others > 0 else []
    parts += [f"{event.left_out:,} left out, since something is wrong there"] if event.left_out else []
    parts += [f"budget {usd(event.budget_usd)}"] if event.budget_usd is not None else []
    return [(" · ".join(parts), "bold"), (" → ", "dim"), (Whole(truncate(event.output)), "dim")]


def price_parts(counts: Mapping[tuple[str, Decimal], int]) -> list[str]:
    """How many jobs cost how much each, such as `7 x 480P at $0.05`.

    Args:
        counts: the number of jobs by their kind and the price of one.
    """
    return [f"{count:,} x {kind} at {usd(price)}" for (kind, price), count in sorted(counts.items())]


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def summary_lines(statistics: Statistics, end: events.Finished) -> list[Line]:
    """The summary of a run: counts and money as the journal has them, then problems by reason and what to do.

    The first line is enough where only one is wanted.
    """
    style = "red" if end.failed + end.missing + end.unknown else "yellow" if end.exit_code else "green"
    counts = {"done before": end.skipped, "failed": end.failed, "cancelled": end.cancelled, "missing": end.missing}
    counts |= {"unknown": end.unknown, "left to do": end.unfinished}
    parts = [f"{end.stored:,} stored", *(f"{number:,} {name}" for name, number in counts.items() if number)]
    money = f"{usd(end.run_usd)} spent" if end.run_usd else "nothing spent"
    money += f" ({usd(end.spent_usd)} with earlier runs)" if end.spent_usd != end.run_usd else ""
    money += f" · {usd(end.reserved_usd)} reserved" if end.reserved_usd else ""
    mark = {"red": "✗ ", "yellow": "! ", "green": "✓ "}[style]
    lines = [[(mark, style), (" · ".join(parts), f"bold {style}"), (f" · {money} · {duration(end.seconds)}", "")]]
    lines += _speed_lines(statistics, end)
    grouped: dict[tuple[State, str], list[str]] = {}
    for job, why in statistics.reasons.items():
        grouped.setdefault(why, []).append(job)
    ranked = sorted(grouped.items(), key=lambda item: -len(item[1]))
    for (state, reason), jobs in ranked[:5]:
        names = ", ".join(truncate(job, 40) for job in jobs[:3]) + (", …" if len(jobs) > 3 else "")
        lines.append([(f"  {len(jobs):,} {state}: ", STYLES[state]), (truncate(reason, 200), "")])
        lines.append([(f"    {names}", "dim")])
    if others := ranked[5:]:
        rest = sum(len(jobs) for _, jobs in others)
        lines.append([(f"  and {rest:,} more, for other reasons ({len(others):,})", "dim")])
    if end.failed + end.cancelled:
        given_up = any(reason.startswith("given_up:") for _, reason in statistics.reasons.values())
        failed = [job for job, (_, reason) in statistics.reasons.items() if reason.startswith(_OF_AN_IMAGE)]
        images, command, more = statistics.retries.images, statistics.retries.command, statistics.retries.remark
        advice = retry_advice([images[job] for job in failed if job in images], images.values())
        lines.append([("  try failed ones again with ", "dim"), (f"{command} {advice.flags}".strip(), "")])
        lines += [[(f"    {remark}", "dim")] for remark in (*advice.remarks, more) if remark]
        if given_up:
            lines.append([("  render given-up jobs again, and pay again, with ", "dim"), ("--rerender", "")])
    if end.missing:
        lines.append(
            [
                ("  the next run asks for missing clips again; render them again, and pay again, with ", "dim"),
                ("--rerender", ""),
            ]
        )
    if end.unknown and statistics.started and (folder := Path(statistics.started.output, "unassigned")).is_dir():
        lines.append([("  clips that may be of unknown Runs are in ", "dim"), (Whole(sanitise(str(folder))), "")])
        lines.append([("  status lists them, and says how to ", "dim"), ("assign", ""), (" one to its job", "dim")])
    in_flight = sum(statistics.counts[state] for state in IN_FLIGHT)
    if end.exit_code in INTERRUPTIONS and in_flight and end.resume:
        tasks = "1 task goes" if in_flight == 1 else f"{in_flight:,} tasks go"
        text = f"  {tasks} on at the service, and may be charged: the command below fetches what they make"
        lines.append([(text, "yellow")])
    if statistics.started and end.stored + end.skipped:
        lines.append([("  clips in ", "dim"), (Whole(sanitise(statistics.started.output)), "")])
        if (page := Path(statistics.started.output, GALLERY)).is_file():
            lines.append([("  look at them in ", "dim"), (Whole(sanitise(str(page))), "")])
    lines += _choice_lines(end)
    if end.resume:
        lines.append([("  resume with ", "dim"), (Whole(sanitise(end.resume)), "bold")])
    return lines


def _choice_lines(end: events.Finished) -> list[Line]:
    """The flags between which the user has to choose: without one of them, the next run may end as this one."""
    if not end.resume or not end.choices:
        return []
    width = max(map(len, end.choices))
    title = "  the same again probably ends like this: to get further, add to the command below"
    lines: list[Line] = [[(title, "yellow")]]
    lines += [[(f"    {flag:<{width}}", "bold"), (f"  {_CHOICES.get(flag, '')}", "")] for flag in end.choices]
    return lines


def _speed_lines(statistics: Statistics, end: events.Finished) -> list[Line]:
    """How long the clips of this run took, and what they cost by resolution."""
    lines: list[Line] = []
    if (middle := statistics.median_seconds) is not None and statistics.slowest is not None and end.stored > 1:
        slowest, job = statistics.slowest
        text = f"  {60 * end.stored / max(1.0, end.seconds):.1f} clips a minute · median {duration(middle)}"
        lines.append([(f"{text} · slowest {duration(slowest)} ({truncate(job)})", "dim")])
    counts, amounts = Counter[str](), dict[str, Decimal]()
    for group, (count, amount) in statistics.spending.by_group().items():
        counts[kind_of(group)] += count
        amounts[kind_of(group)] = amounts.get(kind_of(group), Decimal(0)) + amount
    if len(counts) > 1:
        parts = [f"{name or 'others'}: {usd(amounts[name])} for {counts[name]:,}" for name in sorted(counts)]
        lines.append([(f"  {' · '.join(parts)}", "dim")])
    return lines


def facts_of(statistics: Statistics, at: float) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What is going on, as (label, value, style): the jobs by state, and then money, speed and time."""
    shown: dict[str, int] = dict(statistics.counts.items())
    shown["waiting"] += shown.pop("uploaded")
    shown["queued"] += shown.pop("submitting")
    shown["stored"] += shown.pop("done")
    always = ("waiting", "queued", "running", "downloading", "stored", "failed")
    states = [
        (name, f"{n:,}", STYLES.get(name, "") if n else "dim") for name, n in shown.items() if n or name in always
    ]
    projected, budget = statistics.projected_usd(), statistics.started and statistics.started.budget_usd
    # Events report what this run pays; the folder's total may be higher.
    rest = [("spent now" if statistics.counts["done"] else "spent", usd(statistics.spent_usd), "")]
    rest += [("projected", usd(projected), "red" if budget and projected > budget else "")] if projected else []
    rest += [("budget", usd(budget), "")] if budget else []
    used, allowed = statistics.slots
    rest += [("slots", f"{used:,}" if allowed is None else f"{used:,}/{allowed:,}", "")]
    rest += [("receiving", f"{size(statistics.bytes_per_second(at))}/s", "")]
    pace = statistics.clips_per_minute(at)
    rest += [("clips/min", f"{pace:.1f}", "")] if pace is not None else []
    return states, rest


def text_of(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line)


def progress_bar(part: float, width: int, style: str) -> Line:
    """A bar of `width` cells, `part` (0 to 1) of it filled; two glyphs make it readable without colours."""
    filled = int(part * width)
    return [("━" * filled, style), ("─" * (width - filled), "dim")]


def paint(lines: Iterable[Line]) -> Text:
    """Styled lines as rich text."""
    from rich.text import Text

    return Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line) for line in lines)
