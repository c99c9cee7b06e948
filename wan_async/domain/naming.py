"""File names of clips: safe on every file system, and unique in a batch."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from urllib.parse import unquote, urlsplit

from wan_async.domain.validation import is_url

NAME_LIMIT_BYTES = 120
"""Short enough that `NAME-2.json.part` fits every file system (the strictest in use, eCryptfs, takes 143 bytes), and
that a path on Windows keeps half of its 260 characters for the folder."""

# What needs no second look: ASCII that is harmless everywhere and isn't one of Windows' devices.
_DEVICE = r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\.|$)"
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
_HARMLESS = re.compile(rf"(?i:(?!{_DEVICE}))[A-Za-z0-9_](?:[A-Za-z0-9_ .-]{{0,{NAME_LIMIT_BYTES - 2}}}[A-Za-z0-9_-])?")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')


def safe_name(text: str) -> str:
    """Makes any text a file name (without extension) that every file system takes, and that stays in its folder.

    What systems refuse becomes `-`; control characters, invisible ones and those that turn the reading direction go;
    leading dots and dashes, and trailing dots and spaces go; a device of Windows gets a `_`; what is too long is cut
    and told from its like by 8 hex digits of the whole.

    Args:
        text: any text.

    Returns:
        A name of 1 to `NAME_LIMIT_BYTES` bytes in UTF-8, normalised (NFC). Made safe again, it stays as it is.
    """
    if _HARMLESS.fullmatch(text):
        return text
    kept = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", text)
        # Cc control, Cf invisible and direction, Cs halves of pairs, Co and Cn nothing that anyone could read.
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
    """What two names have in common if a file system may take them for one: NFC and casefold."""
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    )


def stem_of(image: str) -> str:
    """An image's file name without its extension; of a URL, that of its path."""
    path = unquote(urlsplit(image).path) if is_url(image) else image
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name or "image"
