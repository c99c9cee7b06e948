"""The bytes of a text file -> text, in whichever Unicode encoding it was saved."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE

_MARKS = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile("\r\n?|\n")


class Undecodable(ValueError):
    """The bytes are not Unicode text.

    Attributes:
        line: the line of the first bad byte, from 1.
        column: its column, from 1.
    """

    def __init__(self, message: str, before: str) -> None:
        super().__init__(message)
        ends = [match.end() for match in _LINE_END.finditer(before)]
        self.line: int = len(ends) + 1
        self.column: int = len(before) - (ends[-1] if ends else 0) + 1


def decoded(data: bytes) -> str:
    """The text: UTF-8, or UTF-16 or UTF-32 with a byte order mark, or UTF-16 without one where that is unmistakable.

    Raises:
        Undecodable: the message says how to save the file.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, errors="ignore").removeprefix("\ufeff")
        message = f"this is not {encoding.upper()} (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        raise Undecodable(message, before) from None
    if encoding == "utf-8" and "\0" in text:
        message = "this is not UTF-8 (byte 0x00), or not a text; save the file as UTF-8"
        raise Undecodable(message, text.partition("\0")[0])
    return text


def _unmarked(data: bytes) -> str:
    """UTF-16 if in at least half of the units the same byte is 0, as in ASCII text, else UTF-8."""
    if b"\0" not in data or len(data) % 2:
        return "utf-8"
    high, low = data[::2].count(0), data[1::2].count(0)
    if 4 * max(high, low) < len(data) or 4 * min(high, low) > max(high, low):
        return "utf-8"
    return "utf-16-be" if high > low else "utf-16-le"
