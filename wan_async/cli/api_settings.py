"""Settings from the environment and `.env`: the API's URLs and the credentials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.errors import Unusable
from wan_async.http import urls
from wan_async.wiro import protocol
from wan_async.wiro.api import Api

SETTINGS = ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL")


def read_env(folder: Path) -> dict[str, str]:
    """Reads `.env`, without interpolation; settings without a value are left out.

    Args:
        folder: where it lies.

    Returns:
        Its settings; none if there is no such file.

    Raises:
        Unusable: there is one, and it can't be read.
    """
    path = folder / ".env"
    if not path.is_file():  # a virtual environment may be called so
        return {}
    from dotenv import dotenv_values  # most runs have no such file

    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            found = dotenv_values(stream=stream, interpolate=False)
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}") from error
    return {name: value for name, value in found.items() if value is not None}


def settings(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, str]:
    """Chooses the `WIRO_*` settings; the environment takes precedence, and an empty value counts as none.

    A `.env` of foreign files must not combine its secret with the user's key, nor receive the user's
    credentials at its own URLs: its secret counts only with its own key, its URLs only if no credential comes from the
    environment.

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


@dataclass(frozen=True, slots=True)
class Access:
    """An account at a service.

    Attributes:
        base_url: the API's URL.
        key: the project's API key.
        secret: its secret, None for a key-only project.
        origin: the service's name in a journal.
        socket_url: the WebSocket's URL, None if the service has none.
        transport: what sends the requests; None for the network.
    """

    base_url: str
    key: str = field(repr=False)
    secret: str | None = field(repr=False)
    origin: str
    socket_url: str | None
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    def api(self) -> Api:
        """A client of the API."""
        secret = SecretStr(self.secret) if self.secret else None
        return Api(SecretStr(self.key), secret, base_url=self.base_url, transport=self.transport)


def from_environment() -> Access | None:
    """The account that `WIRO_*` and `.env` name; None if they name none.

    Raises:
        errors.InvalidBatch: `WIRO_BASE_URL` is no URL, or plain HTTP to another machine.
        errors.Unusable: `.env` can't be read.
    """
    found = settings(os.environ, read_env(Path()))
    base_url = urls.check_url(found.get("WIRO_BASE_URL") or protocol.BASE_URL, "WIRO_BASE_URL")
    key = found.get("WIRO_API_KEY")
    if not key:
        return None
    # task tokens of another API must not be sent to Wiro's socket
    socket_url = found.get("WIRO_SOCKET_URL") or (protocol.SOCKET_URL if base_url == protocol.BASE_URL else None)
    return Access(base_url, key, found.get("WIRO_API_SECRET") or None, urls.origin(base_url), socket_url)


def base_url() -> str:
    """The API's URL that `WIRO_BASE_URL` and `.env` name, else Wiro's.

    Raises:
        errors.InvalidBatch: it is no URL, or plain HTTP to another machine.
        errors.Unusable: `.env` can't be read.
    """
    found = settings(os.environ, read_env(Path()))
    return urls.check_url(found.get("WIRO_BASE_URL") or protocol.BASE_URL, "WIRO_BASE_URL")


def required(trial: str = "--sandbox") -> Access:
    """The account that `WIRO_*` and `.env` name.

    Args:
        trial: the flag by which this command does without an account.

    Raises:
        errors.StopBatch: there is no key.
    """
    found = from_environment()
    if found is None:
        raise errors.StopBatch(
            "there is no API key: set WIRO_API_KEY (and WIRO_API_SECRET, if the project has one) in the environment or "
            f"in .env, or try {trial}, which needs no account",
            authentication=True,
        )
    return found
