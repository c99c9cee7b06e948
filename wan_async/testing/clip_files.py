"""Small clips for tests."""

from __future__ import annotations

import struct
from functools import cache
from importlib.resources import files


def tiny_mp4(text: str = "") -> bytes:
    """A playable MP4 (H.264, 64 x 36 pixels, a quarter of a second) of about 2 kB.

    Args:
        text: makes the file another one, with another hash; players skip it.

    Example:
        >>> tiny_mp4()[4:8]
        b'ftyp'
        >>> tiny_mp4("a") == tiny_mp4("b")
        False
    """
    extra = text.encode()
    return _clip() + (struct.pack(">I", 8 + len(extra)) + b"free" + extra if extra else b"")


@cache
def _clip() -> bytes:
    return files("wan_async.testing").joinpath("tiny.mp4").read_bytes()
