"""The data of the gallery's page: a line of JSON for each job and each earlier clip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from wan_async.domain import money, validation
from wan_async.domain.model import WAN
from wan_async.journal.reports import GalleryItem

PARAMETERS = {
    name: (
        "" if parameter.kind == "image" else parameter.wire,
        "" if parameter is WAN.prompt else parameter.label or name.replace("_", " "),
    )
    for name, parameter in WAN.by_name.items()
}
"""The model's parameters that the page shows, by their names in a job: the name in Run's form, and the label in the
card's details, in the order of display. Without a name in the form it is never read from there (an image's URL is
signed); without a label it is not repeated in the details."""

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


def labels() -> dict[str, str]:
    """The labels of the parameters that a card's details list, by name."""
    return {name: label for name, (_, label) in PARAMETERS.items() if label}


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
    return {name: form.get(sent_as) for name, (sent_as, _) in PARAMETERS.items() if sent_as}


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    # all are text: a seed may have 64 bits, more than a number has in JavaScript
    return _file_name(str(value)) if name == WAN.image_name else str(value)


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or name == "parameters"}


def _file_name(image: str) -> str:
    """The image's name without its folders, and without a URL's user, password and query (which may be signed)."""
    if validation.is_url(image):
        host_and_path = re.split(r"[?#]", image, maxsplit=1)[0].partition("://")[2]
        image = host_and_path.partition("/")[2]
    return re.split(r"[/\\]", image)[-1]
