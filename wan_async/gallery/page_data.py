"""The data of the gallery's page: a line of JSON for each shot, each job and each earlier clip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from html import escape
from typing import Any

from wan_async.domain import money
from wan_async.domain.lifecycle import JOB_STATES, PROBLEMS, UNCLEAR, UNFINISHED, State
from wan_async.domain.model import WAN, Parameter
from wan_async.gallery.source_images import Source, Sources, href_of
from wan_async.gallery.texts import text
from wan_async.journal.reports import GalleryClip, GalleryItem

PARAMETERS: Mapping[str, Parameter] = WAN.by_name
"""The model's parameters, which the page shows in this order, by their names in a job."""
VARIED = (*WAN.choices, *WAN.integers)
"""What makes the takes of a shot different: all other parameters are the shot's own."""

HEAD_CHARACTERS = 200
"""Of a prompt above the links: the whole is in the data."""

EARLIER = "earlier"
"""The state of a stored clip that is not its job's current one (`GalleryItem.state`)."""

WAITING = "waiting"
"""The group of jobs that a run goes on with."""
RETRIED = frozenset({State.FAILED, State.CANCELLED})
"""The states of jobs that `--retry-failed` renders again."""


def group_of(state: str) -> str:
    """The group in which items in a state (`GalleryItem.state`) are counted."""
    if state in UNFINISHED:
        return WAITING
    if state in UNCLEAR:
        return "unknown"
    return State.FAILED if state == State.GIVEN_UP else state


GROUPS: tuple[str, ...] = tuple(
    dict.fromkeys(["stored", EARLIER, WAITING, "failed", "cancelled", "missing", "unknown", *map(group_of, JOB_STATES)])
)
"""The groups in the order in which the page lists them."""


def states() -> dict[str, dict[str, Any]]:
    """What the page needs to know of each state of an item beside its texts: its group, and whether it is a problem."""
    return {
        state: {
            "group": group_of(state),
            "problem": state in PROBLEMS or state in UNCLEAR,
        }
        for state in (EARLIER, *JOB_STATES)
    }


def parameters() -> list[dict[str, Any]]:
    """What the page needs to know of each parameter; the first is the prompt."""
    return [
        {
            "name": name,
            "label": parameter.label or name.replace("_", " "),
            "kind": parameter.kind,
            "default": None if parameter.default is None else str(parameter.default),
            "choices": list(parameter.choices),
            "price": parameter.selects_price,
        }
        for name, parameter in PARAMETERS.items()
    ]


def data_text(value: object) -> str:
    """JSON for a script element that is not executed. It contains no `<`, so that no text can end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


class Rows:
    """The lines of the data, and the links to the clips for browsers without JavaScript.

    Args:
        sources: finds the images of jobs.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._refused: dict[str, bool] = {}
        self._shots: dict[tuple[str | None, ...], int] = {}
        self._heads: list[str] = []
        self._links: list[list[str]] = []

    def lines(self, items: Iterable[GalleryItem]) -> Iterator[str]:
        """A line per item, and before it one of its shot if that is new."""
        for item in items:
            job = item.job if item.job is not None else _job_of(item)
            image = self._sources.image_of(job)
            identity = (image, *(_text(job.get(name)) for name in WAN.texts))
            shot = self._shots.get(identity)
            if shot is None:
                shot = self._shots[identity] = len(self._shots)
                source = self._sources.find(image) if image else None
                if source is not None and item.original:
                    source = replace(source, name=item.original)
                yield data_text(_shot(shot, job, source)) + "\n"
                self._heads.append(_head(job, source))
                self._links.append([])
            label = _text(job.get("label")) or item.name
            row = _row(item, job, shot, label)
            if item.state in RETRIED and self._needs_prepare(image):
                row["prepare"] = True
            yield data_text(row) + "\n"
            self._links[shot] += [
                f'<li><a href="{escape(href_of(clip.file))}"><bdi>{escape(clip.file)}</bdi></a></li>'
                for clip in item.clips
            ]

    def _needs_prepare(self, image: str) -> bool:
        if image not in self._refused:
            self._refused[image] = self._sources.needs_prepare(image)
        return self._refused[image]

    def links(self) -> Iterator[str]:
        """The clips of each shot that has some, under its image and prompt; complete once the lines were read."""
        for head, links in zip(self._heads, self._links, strict=True):
            if links:
                yield f"<section>\n{head}\n<ol>\n"
                yield from links
                yield "</ol>\n</section>\n"


def dollars(amount_micros: int) -> str:
    """An amount for display: `$1,234.50`."""
    return f"${money.usd(amount_micros):,f}"


def _head(job: Mapping[str, Any], source: Source | None) -> str:
    """A shot's image and the start of its prompt, as HTML."""
    prompt = _text(job.get(WAN.prompt.name)) or ""
    if len(prompt) > HEAD_CHARACTERS:
        prompt = prompt[: HEAD_CHARACTERS - 1] + "…"
    name = text("noImage") if source is None else escape(source.name)
    return f'<h2><bdi>{name}</bdi></h2><p dir="auto">{escape(prompt)}</p>'


def _shot(number: int, job: Mapping[str, Any], source: Source | None) -> dict[str, Any]:
    texts = {name: value for name in WAN.texts if (value := _text(job.get(name)))}
    shown = {"shot": number, "texts": texts}
    if source is not None:
        shown |= _given({"image": source.name, "src": source.href})
        # what a batch file in this folder says is the link's path, and seldom anything else
        if source.path and href_of(source.path) != source.href:
            shown["path"] = source.path
        if not source.path:
            shown["lost"] = True
    return shown


def _row(item: GalleryItem, job: Mapping[str, Any], shot: int, label: str) -> dict[str, Any]:
    return {"id": label, "shot": shot} | _given(
        {
            "key": item.key if item.key != label else None,
            "state": item.state if item.state != State.STORED else None,
            "reason": item.error,
            # all are text: an integer may have 64 bits, more than a number has in JavaScript
            "values": _given({name: _text(job.get(name)) for name in VARIED}),
            "task": item.task_id,
            "cost": item.cost,
            "seconds": None if item.render_seconds is None else round(item.render_seconds, 1),
            "at": None if item.stored_at is None else round(item.stored_at),
            "clips": [_clip(clip) for clip in item.clips],
        }
    )


def _clip(clip: GalleryClip) -> dict[str, Any]:
    href = href_of(clip.file)
    return {"file": clip.file, "bytes": clip.bytes} | _given(
        {
            "src": href if href != f"./{clip.file}" else None,
            "type": clip.content_type.lower() if clip.content_type != "video/mp4" else None,
            "sha256": clip.sha256,
        }
    )


def _job_of(item: GalleryItem) -> dict[str, Any]:
    # the image that was sent is a URL that may be signed
    sent = {name: item.form.get(each.wire) for name, each in PARAMETERS.items() if each.kind != "image"}
    return sent | {WAN.image_name: item.image}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}
