"""Where clips go: a local folder, or an object store such as `s3://BUCKET/FOLDER`; and whose they are there."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias
from urllib.parse import urlsplit

SCHEMES = ("s3", "gs", "az", "file")
"""Amazon S3 and compatible stores, Google Cloud Storage, Azure Blob Storage, a local folder (for trials)."""

OWNER = ".wan_async/journal-id"
"""The file beside the clips that names their journal. A folder that holds its own journal has none."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_FORBIDDEN = re.compile(r"[?#$\\\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class OutputUrl:
    """Where clips go in an object store. Make it with `location_of`, which checks it.

    Attributes:
        text: the URL, without a slash at its end.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> str:
        """The URL of a file in it, for messages."""
        return f"{self.text}/{name}"

    @property
    def name(self) -> str:
        """The last part of the URL's path; the bucket, where it has none."""
        return self.text.rpartition("/")[2]

    def beside(self, end: str) -> OutputUrl:
        """Another place of the same bucket: beside this one, or in it if this is the bucket itself."""
        has_path = "/" in self.text.partition("://")[2]
        return OutputUrl(f"{self.text}.{end}" if has_path else f"{self.text}/{end}")


Location: TypeAlias = Path | OutputUrl
"""Where clips go."""


def location_of(text: str) -> Location:
    """The folder or the object store that a text names.

    Raises:
        ValueError: it is a URL that can't be used; the message says why, without repeating credentials in it.
    """
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ValueError(f"clips go to local folders and to {known}, not to {match[0]}")
    try:
        parts = urlsplit(f"{scheme}{text[len(match[1]) :]}")
    except ValueError:
        raise ValueError(f"this is no {scheme}:// URL") from None
    if "@" in parts.netloc or ":" in parts.netloc:
        raise ValueError(
            "a URL with a user, a password or a port is refused: credentials come from the environment, as does the "
            "address of a server (such as AWS_ENDPOINT_URL)"
        )
    if bad := _FORBIDDEN.search(text):
        raise ValueError(f"{bad[0]!r} can't be in the URL of an output; variables are not filled in")
    path = parts.path.rstrip("/")
    if scheme == "file" and (parts.netloc or not path):
        raise ValueError("write file:///FOLDER, with three slashes and an absolute path")
    if scheme != "file" and not parts.netloc:
        raise ValueError(f"write {scheme}://BUCKET/FOLDER: the bucket is missing")
    if {"", ".", ".."} & set(path.split("/")[1:]):
        raise ValueError("its path has an empty part, . or ..")
    return OutputUrl(f"{scheme}://{parts.netloc}{path}")


@dataclass(frozen=True, slots=True)
class Owner:
    """The journal that clips belong to, as the file `OWNER` names it.

    Attributes:
        journal: its identity; None if the file can't be read.
        database: the database that holds it, without a password; None if it is in a folder.
    """

    journal: str | None
    database: str | None = None

    @classmethod
    def loads(cls, content: bytes) -> Self:
        """Reads the file's content."""
        try:
            found = json.loads(content)
        except ValueError:
            return cls(None)
        found = found if isinstance(found, dict) else {}
        journal, database = found.get("journal"), found.get("database")
        return cls(journal if isinstance(journal, str) else None, database if isinstance(database, str) else None)

    def dumps(self) -> bytes:
        """The file's content."""
        database = {} if self.database is None else {"database": self.database}
        return json.dumps({"journal": self.journal, **database}).encode() + b"\n"

    @property
    def flag(self) -> str:
        """The flag that names its database, as it is typed; without a password."""
        return f"--journal {shlex.quote(self.database or 'postgresql://...')}"
