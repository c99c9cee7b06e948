"""The data of the gallery's page: a line of JSON for each job and each earlier clip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from wan_async.domain import money, validation
from wan_async.domain.model import WAN, Parameter
from wan_async.journal.reports import GalleryItem

PARAMETERS: Mapping[str, Parameter] = WAN.by_name
"""The model's parameters, which the page shows in this order, by their names in a job."""

STATES = {
    "stored": ("stored", "stored", ""),
    "earlier": ("earlier", "earlier", "The batch no longer asks for this clip, or asked for another take since."),
    "planned": ("unfinished", "waiting", "Not sent yet."),
    "intent": ("unfinished", "being sent", "The request was about to be sent."),
    "accepted": ("unfinished", "rendering", "The service is working on it."),
    "ended": ("unfinished", "to download", "Rendered; its clip is not on disk yet."),
    "failed": ("failed", "failed", "It failed."),
    "cancelled": ("cancelled", "cancelled", "It was cancelled."),
    "missing": ("missing", "missing", "Its clip is not available now; every later run asks for it again."),
    "given_up": ("failed", "given up", "Its clip was missing and was given up (--give-up)."),
    "unknown": ("unknown", "unknown", "Sent, but not answered: the next run looks for the task."),
    "quarantined": ("unknown", "quarantined", "Sent, but its task can't be identified: it counts as spent."),
}
"""The state of an item (`GalleryItem.state`): the group in which it is counted, a word, and a sentence."""
GROUPS = ("stored", "earlier", "unfinished", "failed", "cancelled", "missing", "unknown")
"""The groups in the order of their buttons."""


def parameters() -> list[dict[str, str]]:
    """What the page needs to know of each parameter: name, label and kind. The first is the prompt."""
    return [
        {"name": name, "label": parameter.label or name.replace("_", " "), "kind": parameter.kind}
        for name, parameter in PARAMETERS.items()
    ]


def lines_of(items: Iterable[GalleryItem]) -> Iterator[str]:
    """A line of JSON per item. It contains no `<`, so that no text can end the script element around it."""
    for item in items:
        text = json.dumps(_without_empty(_row(item)), separators=(",", ":"))
        yield text.replace("<", "\\u003c") + "\n"


def dollars(amount_micros: int) -> str:
    """An amount for display: `$1,234.50`."""
    return f"${money.usd(amount_micros):,f}"


def _row(item: GalleryItem) -> dict[str, Any]:
    group, word, sentence = STATES[item.state]
    job = item.job if item.job is not None else _job_of(item.form)
    return {
        "id": job.get("label") or item.name,
        "key": item.key,
        "group": group,
        "state": word,
        "reason": item.error or sentence,
        "parameters": _without_empty({name: _shown(name, job.get(name)) for name in PARAMETERS}),
        "task": item.task_id,
        "cost": None if item.cost is None else dollars(item.cost),
        "clips": [
            # `./` and the quoting make it a relative path whatever the file's name is: never a host or a scheme
            {"src": f"./{quote(clip.file)}", "file": clip.file, "bytes": clip.bytes, "type": clip.content_type.lower()}
            for clip in item.clips
        ],
    }


def _job_of(form: Mapping[str, Any]) -> dict[str, Any]:
    # without the image: its URL may be signed
    return {name: form.get(each.wire) for name, each in PARAMETERS.items() if each.kind != "image"}


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    # all are text: an integer may have 64 bits, more than a number has in JavaScript
    return _file_name(str(value)) if name == WAN.image_name else str(value)


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or name == "parameters"}


def _file_name(image: str) -> str:
    """The image's name without its folders, and without a URL's user, password and query (which may be signed)."""
    if validation.is_url(image):
        host_and_path = re.split(r"[?#]", image, maxsplit=1)[0].partition("://")[2]
        image = host_and_path.partition("/")[2]
    return re.split(r"[/\\]", image)[-1]
