"""Field types for the service's JSON: numbers sent as text, JSON encoded in text, null for empty."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from wan_async.domain.money import micros, usd


def parse_json_text(value: object) -> object:
    """Decode a value that may be JSON in a string; what isn't JSON is returned unchanged."""
    if isinstance(value, str | bytes):
        try:
            return pydantic_core.from_json(value)
        except ValueError:
            return value
    return value


def read_mapping(value: object) -> dict[str, object]:
    """Read an object, also one encoded as JSON text; anything else reads as an empty object."""
    value = parse_json_text(value)
    return value if isinstance(value, dict) else {}


def read_sequence(value: object) -> list[dict[str, object]]:
    """Read an array of objects, also one encoded as JSON text; anything else reads as an empty array."""
    value = parse_json_text(value)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_text(value: object) -> str:
    """Read text, also from a number; null reads as empty."""
    match value:
        case str():
            return value
        case float():
            return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else ""
        case int():
            return str(value)
    return ""


def read_maybe_text(value: object) -> str | None:
    """Read text; empty text and null read as None."""
    return None if isinstance(value, bool) else read_text(value) or None


def read_truth(value: object) -> bool | None:
    """Read a boolean, also from text or 0 and 1; anything else reads as None."""
    return {"true": True, "1": True, "false": False, "0": False}.get(read_text(value).lower())


def read_number(value: object) -> float | None:
    """Read a finite number, also from text; anything else reads as None."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < 1e18 else None


def read_count(value: object) -> int | None:
    """Read a non-negative integer, also from text; anything else reads as None."""
    number = read_number(value)
    return int(number) if number is not None and number >= 0 else None


def find_number(value: object, name: str) -> float | None:
    """The first finite number under a name that is, or ends in, `name`, at any depth of an answer."""
    pending = [value]
    while pending:
        match pending.pop(0):
            case dict() as mapping:
                for key, each in mapping.items():
                    if str(key).lower().endswith(name) and (number := read_number(each)) is not None:
                        return number
                pending += mapping.values()
            case list() as items:
                pending += items
    return None


def as_dollars(value: int | None) -> str | None:
    """Write micro-dollars as the service writes US dollars."""
    return None if value is None else f"{usd(value):f}"


Text = Annotated[str, BeforeValidator(read_text)]
MaybeText = Annotated[str | None, BeforeValidator(read_maybe_text)]
Truth = Annotated[bool | None, BeforeValidator(read_truth)]
Number = Annotated[float | None, BeforeValidator(read_number)]
Count = Annotated[int | None, BeforeValidator(read_count)]
Micros = Annotated[int | None, BeforeValidator(micros), PlainSerializer(as_dollars, when_used="json")]


class WireModel(BaseModel):
    """An object of the service. Unknown fields are kept."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True, defer_build=True)
