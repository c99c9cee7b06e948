"""The clips of an output folder as one HTML page: playable, searchable, in need of nothing but a browser.

Nothing that came from a batch file or from the service ever becomes markup. Jobs travel as JSON in a block that no
browser executes, with every `<` written as an escape so that nothing can end the block early, and the script puts them
on the page as text. A policy allows this one script and this one style by their hashes, and no network at all.

Rows go to the file one by one, and the script makes cards only as they scroll into view: a video has a source while it
is near the window and no longer, since browsers hold a limited number of players.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from itertools import groupby
from os import fsync
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from wan_async.domain import money, validation
from wan_async.domain.model import WAN
from wan_async.errors import Unusable
from wan_async.journal.base import FILE
from wan_async.journal.connection import peek, translated
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.queries import RESULTS
from wan_async.journal.reports import homes_of

NAME = "gallery.html"

_SENT = ", ".join(
    f"'{name}', json_extract(a.form, '$.{parameter.wire}')"
    for name, parameter in WAN.by_name.items()
    if parameter.kind != "image"  # a URL that was sent may be signed
)
# Only what people are to see is asked for: task tokens and answers stay in the journal. What a job was rendered with
# before the batch changed is told by what was sent then.
_ITEMS = f"""
WITH results (job, state, file, task_id, cost, sha256, error) AS ({RESULTS}),
current AS (
    SELECT j.position, r.job, r.state, r.task_id, r.cost, r.error, j.name, j.spec,
           (SELECT max(a.id) FROM attempts a WHERE a.job = j.key AND a.content = j.content) AS attempt
    FROM results r JOIN jobs j ON j.key = r.job
),
items AS (
    SELECT * FROM current UNION ALL
    SELECT NULL, a.job, 'earlier', a.task_id, a.cost, NULL, a.name, coalesce(j.spec, json_object({_SENT})), a.id
    FROM attempts a LEFT JOIN jobs j ON j.key = a.job AND j.content = a.content
    WHERE a.state = 'stored' AND a.id NOT IN (SELECT attempt FROM current WHERE attempt IS NOT NULL)
)
"""  # noqa: S608 - put together from constants
_ROWS = f"""
{_ITEMS}
SELECT i.job, i.attempt, i.state, i.task_id, i.cost, i.error, i.name, i.spec, c.file, c.bytes, c.content_type
FROM items i LEFT JOIN clips c ON i.state IN ('stored', 'earlier') AND c.attempt = i.attempt
ORDER BY i.position IS NULL, i.position, i.attempt, c.number
"""  # noqa: S608
_COUNTS = f"{_ITEMS} SELECT state, count(*) FROM items GROUP BY state"  # noqa: S608

_STATES = {
    "stored": ("stored", "stored", ""),
    "earlier": ("earlier", "earlier", "The batch no longer asks for it, or asked for another take since."),
    "planned": ("unfinished", "waiting", "Not sent yet."),
    "intent": ("unfinished", "being sent", "The request was about to leave."),
    "accepted": ("unfinished", "rendering", "The service is working on it."),
    "ended": ("unfinished", "to download", "Rendered; its clip is not on disk yet."),
    "failed": ("failed", "failed", "It failed."),
    "cancelled": ("cancelled", "cancelled", "It was cancelled."),
    "missing": ("missing", "missing", "Its clip is not available now; every later run asks for it again."),
    "given_up": ("failed", "given up", "Its clip was missing, and was given up as asked."),
    "unknown": ("unknown", "unknown", "Sent, and no answer came: the next run finds out what became of it."),
    "quarantined": ("unknown", "quarantined", "Whether it was rendered can't be told: it counts as spent."),
}
"""The state of a job, or of an earlier clip, as the group it is counted in, a word, and a sentence."""
_GROUPS = ("stored", "earlier", "unfinished", "failed", "cancelled", "missing", "unknown")


def write(output: Path, *, home: Path | None = None) -> Path:
    """Writes the gallery of an output folder, in place of an older one; a running batch is not disturbed.

    Args:
        output: the folder of the clips.
        home: where the journal lies; by default in `output`, with those of its single clips (`generate`).

    Returns:
        The page's path.

    Raises:
        Unusable: there is no journal, it can't be read, or the page can't be written.
    """
    page = output / NAME
    # nobody holds a lock here: two writers at a time must not share a file
    part = page.with_name(f"{NAME}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as stack, translated(page):
        parts = _parts(stack, output, home)
        try:
            with part.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
                file.writelines(_page(parts, output.resolve().name))
                file.flush()
                fsync(file.fileno())
            part.replace(page)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return page


class _Part(NamedTuple):
    """What one journal adds to the page: totals, and rows, as one commit left them, whoever goes on writing."""

    states: dict[str, int]
    settled: int
    reserved: int
    rows: Iterable[str]


def _parts(stack: ExitStack, output: Path, home: Path | None) -> list[_Part]:
    """The run's journal first, which stays open; then those of `generate`, a job each, which there may be many of."""
    run, *single = homes_of(output) if home is None else [home]
    parts = []
    if (run / FILE).exists() and (part := _part(stack.enter_context(closing(peek(run / FILE, LAYOUT))), run / FILE)):
        parts.append(part)
    for journal in (home / FILE for home in single if (home / FILE).exists()):
        with closing(peek(journal, LAYOUT)) as db:
            if part := _part(db, journal):
                parts.append(part._replace(rows=list(part.rows)))
    if not parts:
        raise Unusable(f"there is no journal at {run / FILE}: is this an output folder of a run?")
    return parts


def _part(db: sqlite3.Connection, journal: Path) -> _Part | None:
    with translated(journal):
        if not db.execute("PRAGMA user_version").fetchone()[0]:  # the process died while it was made
            return None
        db.execute("BEGIN")
        settled, reserved = db.execute("SELECT settled, reserved FROM money").fetchone()
        return _Part(dict(db.execute(_COUNTS)), settled, reserved, _rows(db, journal))


def _page(parts: list[_Part], title: str) -> Iterator[str]:
    states: Counter[str] = Counter()
    for part in parts:
        states.update(part.states)
    yield _head(title, states, sum(part.settled for part in parts), sum(part.reserved for part in parts))
    yield '<script type="application/json" id="data">\n'
    for part in parts:
        yield from part.rows
    yield f"</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"


def _head(title: str, states: Mapping[str, int], settled: int, reserved: int) -> str:
    groups: Counter[str] = Counter()
    for state, count in states.items():
        groups[_STATES[state][0]] += count
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; media-src 'self' file:; img-src 'self' file:; "
        f"style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'"
    )
    clips = groups["stored"] + groups["earlier"]
    totals = [f"<b>{clips:,}</b> {'clip' if clips == 1 else 'clips'}", f"<b>{_usd(settled)}</b> spent"]
    totals += [f"<b>{_usd(reserved)}</b> reserved"] if reserved else []
    chips = [f'<button type="button" data-group="" aria-pressed="true">all <b>{groups.total():,}</b></button>']
    chips += [
        f'<button type="button" data-group="{group}" aria-pressed="false">{group} <b>{groups[group]:,}</b></button>'
        for group in _GROUPS
        if groups[group]
    ]
    now = datetime.now(UTC)
    totals += [f'as of <time datetime="{now:%Y-%m-%dT%H:%M:%SZ}">{now:%Y-%m-%d %H:%M} UTC</time>']
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="wan_async">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)} · clips</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="totals">{" · ".join(totals)}</p>
</header>
<div class="bar" role="search">
<input id="search" type="search" placeholder="Search prompts, ids, parameters" aria-label="Search" autocomplete="off">
<div class="chips" role="group" aria-label="State">{"".join(chips)}</div>
<p id="shown" role="status"></p>
</div>
<main>
<noscript><p class="empty">The clips lie beside this page as files; it needs JavaScript to show them.</p></noscript>
<ol id="grid"></ol>
<div id="more"></div>
</main>
"""


def _rows(db: sqlite3.Connection, journal: Path) -> Iterator[str]:
    with translated(journal):
        for _, clips in groupby(db.execute(_ROWS), lambda row: row[:2]):
            first, *further = clips
            key, _, state, task, cost, error, name, spec = first[:8]
            try:
                wanted = json.loads(spec)
            except ValueError:
                raise Unusable(f"the journal {journal} is damaged: job {key} can't be read") from None
            group, word, sentence = _STATES[state]
            row = {
                "id": wanted.get("label") or name,
                "key": key,
                "group": group,
                "state": word,
                "reason": error or sentence,
                "prompt": wanted.get("prompt"),
                "negative": wanted.get("negative_prompt"),
                "image": _file_name(wanted.get("image")),
                "resolution": wanted.get("resolution"),
                "aspect": wanted.get("aspect_ratio"),
                "seed": str(wanted.get("seed", "")),  # it may have 64 bits: more than a number has in JavaScript
                "task": task,
                "cost": None if cost is None else _usd(cost),
                "clips": [
                    # `./` and the quotes keep it a path, whatever it is called: never a host, never a scheme
                    {"src": f"./{quote(file)}", "file": file, "bytes": size, "type": (kind or "").lower()}
                    for *_, file, size, kind in [first, *further]
                    if file
                ],
            }
            text = json.dumps({name: value for name, value in row.items() if value}, separators=(",", ":"))
            yield text.replace("<", "\\u003c") + "\n"


def _file_name(image: str | None) -> str | None:
    """An image without its folders, and without a URL's account and query, where passwords and signatures are."""
    if image and validation.is_url(image):
        host_and_path = re.split(r"[?#]", image, maxsplit=1)[0].partition("://")[2]
        image = host_and_path.partition("/")[2]
    return re.split(r"[/\\]", image)[-1] if image else None


def _usd(amount: int) -> str:
    return f"${money.usd(amount):,f}"


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


_STYLE = """
:root { --page: #f5f4f0; --card: #fff; --ink: #22262a; --soft: #62686e; --line: #e2dfd8; --well: #eceae4; --go: #1f6f68;
  --bad: #a63a2b; --wait: #5c6470; --odd: #855a00; }
@media (prefers-color-scheme: dark) { :root { --page: #141618; --card: #1d2023; --ink: #e7e6e2; --soft: #9da3a9;
  --line: #2e3236; --well: #0e1011; --go: #6cc4ba; --bad: #ee8d7c; --wait: #a6aeb8; --odd: #dfb25a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, .bar, main { max-width: 1720px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 40px); }
header { padding-top: 30px; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
.totals, #shown { margin: 4px 0 0; color: var(--soft); }
.totals b, .chips b, #shown { font-variant-numeric: tabular-nums; }
.totals b { color: var(--ink); font-weight: 600; }
.bar { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center;
  padding-top: 14px; padding-bottom: 14px; background: var(--page); }
input, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); }
input { flex: 1 1 260px; max-width: 460px; min-width: 0; padding: 8px 14px; border-radius: 10px; }
input::placeholder { color: var(--soft); opacity: 1; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; }
.chips button { padding: 6px 12px; border-radius: 99px; cursor: pointer; }
.chips b { margin-left: 3px; font-weight: 400; color: var(--soft); }
.chips button:hover { border-color: var(--soft); }
.chips [aria-pressed=true] { background: var(--ink); border-color: var(--ink); color: var(--page); }
.chips [aria-pressed=true] b { color: inherit; opacity: .75; }
#shown { margin: 0 0 0 auto; }
:focus-visible { outline: 2px solid var(--go); outline-offset: 2px; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); gap: 18px; margin: 0;
  padding: 6px 0 0; list-style: none; }
ol:has([open], .well + .well) { align-items: start; }
.card { display: flex; flex-direction: column; overflow: hidden; background: var(--card); border-radius: 14px;
  border: 1px solid var(--line); content-visibility: auto; contain-intrinsic-size: auto 380px; }
.well { display: grid; place-items: center; aspect-ratio: 16 / 10; background: var(--well); overflow: hidden; }
.tall .well { aspect-ratio: 4 / 5; }
.well + .well { border-top: 1px solid var(--line); }
.well > * { min-width: 0; min-height: 0; }
video { background: #0e1011; }
video, img { display: block; width: 100%; height: 100%; object-fit: contain; }
video:focus-visible { outline-offset: -2px; }
.note { margin: 0; padding: 12px 22px; max-height: 100%; overflow: hidden; text-align: center; text-wrap: balance;
  color: var(--soft); overflow-wrap: anywhere; white-space: pre-line; }
.about { display: flex; flex-direction: column; gap: 7px; flex: 1; padding: 13px 16px 12px; }
h2 { display: flex; gap: 10px; align-items: baseline; margin: 0; font-size: 15px; font-weight: 600; }
h2 span { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.state { flex: none; font-size: 12px; font-weight: 500; color: var(--wait); }
.stored .state { color: var(--go); }
.failed .state, .missing .state { color: var(--bad); }
.unknown .state { color: var(--odd); }
.prompt { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; line-clamp: 3; overflow: hidden;
  margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
.card:has([open]) .prompt { display: block; }
.facts { margin: auto 0 0; padding-top: 3px; font-size: 13px; color: var(--soft); }
details { font-size: 13px; }
summary { width: fit-content; color: var(--soft); cursor: pointer; border-radius: 4px; }
summary:hover { color: var(--ink); }
dl { display: grid; grid-template-columns: auto 1fr; gap: 4px 14px; margin: 8px 0 2px; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; white-space: pre-line; }
a { color: var(--go); }
.empty { padding: 60px 0; text-align: center; color: var(--soft); }
#more { height: 60px; }
@media (max-width: 600px), (max-height: 500px) { .bar { position: static; } }
"""

_SCRIPT = """
"use strict";
const CHUNK = 48;
const find = (id) => document.getElementById(id);
const grid = find("grid"), search = find("search"), more = find("more");
const chips = document.querySelectorAll(".chips button");
const rows = find("data").textContent.split("\\n").filter((line) => line).map((line) => JSON.parse(line));
find("data").remove();
const fields = ["id", "key", "prompt", "negative", "image", "resolution", "aspect", "seed", "task", "state", "reason"];
for (const row of rows) {
  row.clips ??= [];
  const files = row.clips.map((clip) => clip.file);
  row.text = [...fields.map((name) => row[name]), row.seed && "seed " + row.seed, ...files].join("\\n").toLowerCase();
}
const tall = rows.filter((row) => row.aspect === "9:16").length;
document.body.classList.toggle("tall", tall * 2 > rows.length);
const plays = matchMedia("(hover: hover) and (prefers-reduced-motion: no-preference)");
const count = new Intl.NumberFormat("en").format;
let group = "", chosen = rows, made = 0, timer;

function make(tag, properties, ...children) {  // children that are text stay text
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child));
  return element;
}

function size(bytes) {
  const power = bytes < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(bytes) / 3));
  return (bytes / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB"][power];
}

function note(...children) {
  return make("p", { className: "note" }, ...children);
}

function well(clip) {
  const box = make("div", { className: "well" });
  const gone = " can't be shown: is it still beside this page?";
  const onerror = () => box.replaceChildren(note(make("bdi", {}, clip.file), gone));
  const kind = clip.type || "video/";
  if (kind.startsWith("image/")) {
    box.append(make("img", { loading: "lazy", alt: clip.file, src: clip.src, onerror }));
  } else if (!kind.startsWith("video/")) {
    box.append(note(make("a", { href: clip.src }, clip.file)));
  } else {
    const how = { preload: "none", muted: true, loop: true, playsInline: true, controls: true };
    const video = make("video", { ...how, onerror });
    video.dataset.src = clip.src;
    video.setAttribute("aria-label", clip.file);
    const hovers = (event) => event.pointerType === "mouse" && plays.matches;
    box.onpointerenter = (event) => hovers(event) && video.play().catch(() => {});
    box.onpointerleave = (event) => hovers(event) && video.muted && video.pause();
    box.append(video);
  }
  return box;
}

function card(row) {
  const clips = row.clips;
  const list = make("dl");
  const entry = (name, value) => value && list.append(make("dt", {}, name), make("dd", { dir: "auto" }, value));
  const bytes = clips.reduce((sum, clip) => sum + (clip.bytes || 0), 0);
  entry("reason", row.reason);
  entry("avoids", row.negative);
  entry("image", row.image);
  entry("seed", row.seed);
  entry("resolution", row.resolution);
  entry("aspect ratio", row.aspect);
  entry("cost", row.cost);
  entry("size", bytes && size(bytes));
  entry("task", row.task);
  if (row.key !== row.id) entry("key", row.key);
  for (const clip of clips) entry("file", make("a", { href: clip.src }, clip.file));
  const wells = clips.map(well);
  if (!wells.length) wells.push(make("div", { className: "well" }, note(row.reason)));
  const shape = row.aspect !== "Default" && row.aspect;
  const facts = [row.resolution, shape, row.seed && "seed " + row.seed, row.cost, bytes && size(bytes)];
  return make("li", { className: "card " + row.group }, ...wells, make("div", { className: "about" },
    make("h2", {}, make("span", { dir: "auto" }, row.id), make("span", { className: "state" }, row.state)),
    row.prompt && make("p", { className: "prompt", dir: "auto" }, row.prompt),
    make("p", { className: "facts" }, facts.filter((fact) => fact).join(" · ")),
    make("details", {}, make("summary", {}, "Details"), list)));
}

function unload(element) {
  for (const video of element.querySelectorAll("video[src]")) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
}

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) unload(target);
    else for (const video of target.querySelectorAll("video:not([src])")) {
      video.preload = "metadata";
      video.src = video.dataset.src + "#t=0.001";  // or Safari shows no first frame
    }
  }
}, { rootMargin: "500px 0px" });

const end = new IntersectionObserver((told) => told.at(-1).isIntersecting && grow(), { rootMargin: "1200px 0px" });

function grow() {
  const cards = chosen.slice(made, made + CHUNK).map(card);
  made += cards.length;
  grid.append(...cards);
  cards.forEach((one) => near.observe(one));
  end.unobserve(more);
  if (made < chosen.length) end.observe(more);  // tells at once whether the end is still in sight
}

function choose() {
  const words = search.value.toLowerCase().split(/\\s+/).filter((word) => word);
  chosen = rows.filter((row) => (!group || row.group === group) && words.every((word) => row.text.includes(word)));
  near.disconnect();
  unload(grid);
  grid.replaceChildren();
  made = 0;
  grow();
  const all = chosen.length === rows.length;
  find("shown").textContent = all ? "" : `${count(chosen.length)} of ${count(rows.length)}`;
  if (!chosen.length) grid.append(make("li", { className: "empty" }, all ? "No jobs yet." : "Nothing matches."));
}

search.oninput = () => { clearTimeout(timer); timer = setTimeout(() => { scrollTo(0, 0); choose(); }, 120); };
for (const chip of chips) {
  chip.onclick = () => {
    group = chip.dataset.group;
    chips.forEach((one) => one.setAttribute("aria-pressed", one === chip));
    scrollTo(0, 0);
    choose();
  };
}
document.onkeydown = (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target === search) return;
  event.preventDefault();
  search.focus();
};
for (const time of document.querySelectorAll("time")) {
  time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
choose();
"""
