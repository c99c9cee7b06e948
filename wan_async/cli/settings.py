"""Settings from the environment and `.env`: where the API is, and the credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from wan_async import errors
from wan_async.errors import Unusable
from wan_async.http import urls
from wan_async.wiro import protocol
from wan_async.wiro.api import Api

SETTINGS = ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL")

_SETTING = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_QUOTED = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""")


def read_env(folder: Path) -> dict[str, str]:
    r"""Reads `.env`: `KEY=VALUE` a line, with `export`, quotes and `#` comments, without interpolation.

    In double quotes `\n`, `\"` and `\\` mean what they do elsewhere. Lines of any other form are passed over: the file
    often serves other programs too.

    Raises:
        Unusable: if there is such a file and it can't be read.
    """
    path = folder / ".env"
    if not path.is_file():  # a virtual environment may be called so
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}") from error
    found = {}
    for line in text.splitlines():
        if (match := _SETTING.fullmatch(line)) is None:
            continue
        key, value = match.groups()
        if quoted := _QUOTED.fullmatch(value):
            escaped, plain = quoted.groups()
            value = plain if escaped is None else re.sub(r"\\(.)", _unescaped, escaped)
        else:
            value = re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()
        found[key] = value
    return found


def settings(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, str]:
    """The `WIRO_*` settings there are; the real environment wins, and an empty value is none.

    A foreign `.env` must neither lend its secret to the user's key nor have the user's credentials sent to its own
    URLs: its secret counts only with its own key, and its URLs only if no credential comes from the environment.

    Args:
        environ: the process's environment.
        dotenv: what `read_env` found.

    Returns:
        Those of `SETTINGS` that have a value.
    """
    chosen = {name: environ[name] for name in SETTINGS if environ.get(name)}
    if "WIRO_API_KEY" in chosen or not dotenv.get("WIRO_API_KEY"):
        return chosen
    own = ("WIRO_API_KEY",) if "WIRO_API_SECRET" in chosen else SETTINGS
    return {name: dotenv[name] for name in own if dotenv.get(name)} | chosen


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(match[1], match[1])


@dataclass(frozen=True, slots=True)
class Access:
    """An account at a service.

    Attributes:
        base_url: where its API is.
        key: the project's API key.
        secret: its secret, None for the key-only kind.
        origin: what a journal knows the service by.
        socket_url: where its socket is; None where there is none.
    """

    base_url: str
    key: str = field(repr=False)
    secret: str | None = field(repr=False)
    origin: str
    socket_url: str | None

    def api(self) -> Api:
        """A client of it."""
        secret = SecretStr(self.secret) if self.secret else None
        return Api(SecretStr(self.key), secret, base_url=self.base_url)


def from_environment() -> Access | None:
    """The account that `WIRO_*` and `.env` name; None if they name none.

    Raises:
        errors.InvalidBatch: `WIRO_BASE_URL` won't do.
        errors.Unusable: `.env` can't be read.
    """
    found = settings(os.environ, read_env(Path()))
    base_url = urls.check_url(found.get("WIRO_BASE_URL") or protocol.BASE_URL, "WIRO_BASE_URL")
    key = found.get("WIRO_API_KEY")
    if not key:
        return None
    # another API has another socket, or none; ours must not hear of its tokens
    socket_url = found.get("WIRO_SOCKET_URL") or (protocol.SOCKET_URL if base_url == protocol.BASE_URL else None)
    return Access(base_url, key, found.get("WIRO_API_SECRET") or None, urls.origin(base_url), socket_url)


def required() -> Access:
    """The account that `WIRO_*` and `.env` name.

    Raises:
        errors.StopBatch: there is no key.
    """
    found = from_environment()
    if found is None:
        raise errors.StopBatch(
            "there is no API key: set WIRO_API_KEY (and WIRO_API_SECRET) in the environment or in .env; --sandbox "
            "works without an account",
            authentication=True,
        )
    return found
