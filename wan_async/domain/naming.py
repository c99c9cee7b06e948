"""File names of clips: valid on every file system."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from urllib.parse import unquote, urlsplit

from wan_async.domain.validation import is_url

NAME_LIMIT_BYTES = 120
"""Leaves room for `NAME-2.json.part` on every file system (eCryptfs, the strictest in use, allows 143 bytes), and half
of the 260 characters of a path on Windows for the folder."""

# The fast path: ASCII names that are valid everywhere and aren't one of Windows' device names.
_DEVICE = r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\.|$)"
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
_HARMLESS = re.compile(rf"(?i:(?!{_DEVICE}))[A-Za-z0-9_](?:[A-Za-z0-9_ .-]{{0,{NAME_LIMIT_BYTES - 2}}}[A-Za-z0-9_-])?")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')


def safe_name(text: str) -> str:
    """Convert any text to a file name without extension that is valid on every file system and has no folder.

    Forbidden characters become `-`. Control characters, invisible characters and bidirectional controls are removed, as
    are leading dots and dashes, and trailing dots and spaces. A device name of Windows gets a `_`. A name that is too
    long is cut and ends in 8 hex digits of the whole text's hash.

    Args:
        text: any text.

    Returns:
        A name of 1 to `NAME_LIMIT_BYTES` bytes in UTF-8, normalised (NFC). The function is idempotent.
    """
    if _HARMLESS.fullmatch(text):
        return text
    kept = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", text)
        # Cc control, Cf invisible and bidirectional, Cs lone surrogates, Co private use, Cn unassigned
        if char.isspace() or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"}
    )
    name = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", kept)).lstrip(" .-").rstrip(" .")
    mark = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not name:
        return f"clip-{mark}"
    if match := _RESERVED.match(name):
        end = len(match[0].rstrip(" ."))
        name = f"{name[:end]}_{name[end:].lstrip(' ')}"
    if len(name.encode()) > NAME_LIMIT_BYTES:
        kept = name.encode()[: NAME_LIMIT_BYTES - 9].decode(errors="ignore").rstrip(" .-")
        name = f"{kept}-{mark}"
    return name


def folded(name: str) -> str:
    """The key by which names are compared that some file system may treat as equal: NFC and casefold."""
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    )


def stem_of(image: str) -> str:
    """An image's file name without its extension; of a URL, that of its path."""
    path = unquote(urlsplit(image).path) if is_url(image) else image
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name or "image"
