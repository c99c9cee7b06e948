"""The JSON Schema of a batch file, for editors."""

from __future__ import annotations

from typing import Any

from wan_async.domain.batch import DEFAULT_NAME
from wan_async.domain.model import WAN, Model, Parameter

ENVELOPE = ("output", "name", "model", "defaults", "jobs")


def schema(model: Model = WAN) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a batch file, for editors."""
    fields = {name: _schema_of(model, each) for name, each in model.by_name.items()}
    fields["callback_url"] = {"description": "Wiro sends the finished task there.", "type": ["string", "null"]}
    # A schema can't say that a field and its alias are one: that both are given is an error of the parser's.
    fields |= {
        alias: {**fields[name], "description": f"Wiro's own name for `{name}`."}
        for alias, name in model.aliases.items()
    }
    axes = {name: {"type": "array", "minItems": 1, "items": value} for name, value in fields.items()}
    job = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "id": {
                "description": "What to know the job by from one run to the next, and what to call its clip.",
                "type": ["string", "integer", "null"],
            },
            **fields,
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
                "description": f"The clips' names, made from {_braces(model.name_placeholders)}.",
                "type": ["string", "null"],
                "default": DEFAULT_NAME,
            },
            "model": {"description": "The one model that this program speaks to.", "enum": [model.name, None]},
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


def _schema_of(model: Model, parameter: Parameter) -> dict[str, Any]:
    about = parameter.about
    if parameter.kind == "image":
        about += ": a path from this file's folder, an http(s) URL, or a glob (a job for each file)"
    elif parameter is model.prompt:
        caption, *others = model.prompt_placeholders
        about += f". {{{caption}}} is the text of the .txt file beside the image; {_braces(others)} are filled in, too"
    found: dict[str, Any] = {"description": f"{about}."}
    match parameter.kind:
        case "choice":
            found["enum"] = [*parameter.choices, None]
        case "integer":
            found |= {"type": ["integer", "string", "null"], "pattern": "^[+-]?[0-9]+$"}
        case _:
            found["type"] = ["string", "null"]
    return found if parameter.required or parameter.default is None else found | {"default": parameter.default}


def _braces(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
