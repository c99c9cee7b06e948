"""The data of the gallery's page: a line of JSON for each job and each earlier clip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from wan_async.domain import money, validation
from wan_async.domain.lifecycle import JOB_STATES, LIFECYCLE, UNCLEAR, UNFINISHED, State
from wan_async.domain.model import WAN, Parameter
from wan_async.journal.reports import GalleryItem

PARAMETERS: Mapping[str, Parameter] = WAN.by_name
"""The model's parameters, which the page shows in this order, by their names in a job."""

EARLIER = "earlier"
"""The state of a stored clip that is not its job's current one (`GalleryItem.state`)."""
WORDS = {
    State.PLANNED: "waiting",
    State.INTENT: "being sent",
    State.ACCEPTED: "rendering",
    State.ENDED: "to download",
}
"""What the page calls states whose own names say too little."""


def group_of(state: str) -> str:
    """The group in which items in a state (`GalleryItem.state`) are counted."""
    if state in UNFINISHED:
        return "unfinished"
    if state in UNCLEAR:
        return "unknown"
    return State.FAILED if state == State.GIVEN_UP else state


GROUPS: tuple[str, ...] = tuple(
    dict.fromkeys(
        ["stored", EARLIER, "unfinished", "failed", "cancelled", "missing", "unknown", *map(group_of, JOB_STATES)]
    )
)
"""The groups in the order of their buttons."""


def word_of(state: str) -> str:
    """What the page calls a state of an item."""
    return WORDS[State(state)] if state in WORDS else state.replace("_", " ")


def sentence_of(state: str) -> str:
    """What a state of an item means; empty for a stored clip, which shows it."""
    if state == EARLIER:
        return "The batch no longer asks for this clip, or asked for another take since."
    return "" if state == State.STORED else LIFECYCLE[State(state)].meaning


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
    job = item.job if item.job is not None else _job_of(item.form)
    return {
        "id": job.get("label") or item.name,
        "key": item.key,
        "group": group_of(item.state),
        "state": word_of(item.state),
        "reason": item.error or sentence_of(item.state),
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
