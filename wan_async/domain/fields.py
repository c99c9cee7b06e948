"""Field types that read what the service writes: numbers as text, JSON in text, null for empty."""

from __future__ import annotations

import math
from typing import Annotated

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from wan_async.domain.money import micros, usd


def parse_json_text(value: object) -> object:
    """Objects and arrays arrive as such or as JSON in a string; what isn't JSON is left as it is."""
    if isinstance(value, str | bytes):
        try:
            return pydantic_core.from_json(value)
        except ValueError:
            return value
    return value


def read_mapping(value: object) -> object:
    """An object, also one in a JSON text; anything else is an empty one."""
    value = parse_json_text(value)
    return value if isinstance(value, dict) else {}


def read_sequence(value: object) -> object:
    """An array, also one in a JSON text; anything else is an empty one."""
    value = parse_json_text(value)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_text(value: object) -> str:
    """Text, also of a number; null is empty."""
    match value:
        case str():
            return value
        case float():
            return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else ""
        case int():
            return str(value)
    return ""


def read_maybe_text(value: object) -> str | None:
    """Text or nothing."""
    return None if isinstance(value, bool) else read_text(value) or None


def read_truth(value: object) -> bool | None:
    """A boolean or nothing."""
    return {"true": True, "1": True, "false": False, "0": False}.get(read_text(value).lower())


def read_number(value: object) -> float | None:
    """A finite number, also one in text, or nothing."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < 1e18 else None


def read_count(value: object) -> int | None:
    """A whole number that is not negative, or nothing."""
    number = read_number(value)
    return int(number) if number is not None and number >= 0 else None


def as_dollars(value: int | None) -> str | None:
    """Micro-dollars as the service writes dollars."""
    return None if value is None else f"{usd(value):f}"  # as the service has it, to be read again


Text = Annotated[str, BeforeValidator(read_text)]
MaybeText = Annotated[str | None, BeforeValidator(read_maybe_text)]
Truth = Annotated[bool | None, BeforeValidator(read_truth)]
Number = Annotated[float | None, BeforeValidator(read_number)]
Count = Annotated[int | None, BeforeValidator(read_count)]
Micros = Annotated[int | None, BeforeValidator(micros), PlainSerializer(as_dollars, when_used="json")]


class WireModel(BaseModel):
    """An object of the service: unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)
