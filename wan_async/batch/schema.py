"""The JSON Schema of a batch file, for editors."""

from __future__ import annotations

from typing import Any

from wan_async.batch.format_yaml import ALIASES
from wan_async.domain.batch import DEFAULT_NAME, NAME_FIELDS
from wan_async.domain.model import ASPECT_RATIOS, MODEL, RESOLUTIONS

ENVELOPE = ("output", "name", "model", "defaults", "jobs")

_DESCRIPTIONS = {
    "id": "What to know the job by from one run to the next, and what to call its clip.",
    "image": "The first frame: a path from this file's folder, an http(s) URL, or a glob (a job for each file).",
    "prompt": "What happens in the clip. {caption} is the text of the .txt file beside the image; {stem}, {id}, "
    "{index} and {seed} are filled in, too.",
    "negative_prompt": "What to avoid.",
    "resolution": "The size of the clip.",
    "aspect_ratio": "The shape of the clip; Default is the image's own.",
    "seed": "The same seed and the same job make the same clip.",
    "callback_url": "Wiro sends the finished task there.",
}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a batch file, for editors."""
    seed = {"type": ["integer", "string", "null"], "pattern": "^[+-]?[0-9]+$"}
    values: dict[str, dict[str, Any]] = {
        name: {"type": ["string", "null"]} for name in ("prompt", "image", "negative_prompt", "callback_url")
    }
    values |= {
        "resolution": {"enum": [*RESOLUTIONS, None]},
        "aspect_ratio": {"enum": [*ASPECT_RATIOS, None]},
        "seed": seed,
        "id": {"type": ["string", "integer", "null"]},
    }
    said = {name: {"description": _DESCRIPTIONS[name], **value} for name, value in values.items()}
    for name, default in (("resolution", "480P"), ("aspect_ratio", "Default"), ("seed", 42), ("negative_prompt", "")):
        said[name]["default"] = default
    said |= {alias: {**said[name], "description": f"Wiro's own name for `{name}`."} for alias, name in ALIASES.items()}
    fields = {name: value for name, value in said.items() if name != "id"}
    # A schema sees `image` and `inputImageUrl` as two fields; that they are one is left to the parser.
    axes = {name: {"type": "array", "minItems": 1, "items": value} for name, value in fields.items()}
    job = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **said,
            "matrix": {
                "description": "A job for every combination of these values, in the order written.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": axes,
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A batch of clips for wan-async",
        "type": ["object", "array"],
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "output": {
                "description": "The folder for the clips, relative to this file; `-o` overrides it.",
                "type": ["string", "null"],
            },
            "name": {
                "description": f"The clips' names, made from {', '.join(f'{{{name}}}' for name in NAME_FIELDS)}.",
                "type": ["string", "null"],
                "default": DEFAULT_NAME,
            },
            "model": {"description": "The one model that this program speaks to.", "enum": [MODEL, None]},
            "defaults": {
                "description": "What holds for each job that doesn't say otherwise.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": fields,
            },
            "jobs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/job"}},
        },
        "minItems": 1,
        "items": {"$ref": "#/$defs/job"},
        "$defs": {"job": job},
    }
