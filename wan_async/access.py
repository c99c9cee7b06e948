"""Where the API is, and who we are there: from the environment, from `.env`, or a sandbox of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from wan_async import errors, files, wire
from wan_async.api import Api
from wan_async.driver import sandbox
from wan_async.journal import FOLDER


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
    found = files.settings(os.environ, files.read_env(Path()))
    base_url = wire.check_url(found.get("WIRO_BASE_URL") or wire.BASE_URL, "WIRO_BASE_URL")
    key = found.get("WIRO_API_KEY")
    if not key:
        return None
    # another API has another socket, or none; ours must not hear of its tokens
    socket_url = found.get("WIRO_SOCKET_URL") or (wire.SOCKET_URL if base_url == wire.BASE_URL else None)
    return Access(base_url, key, found.get("WIRO_API_SECRET") or None, wire.origin(base_url), socket_url)


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


@contextmanager
def own_sandbox(output: Path) -> Iterator[Access]:
    """A sandbox that keeps its account and tasks with this output folder's journal."""
    with sandbox(output / FOLDER / "sandbox") as there:
        yield Access(there.base_url, there.api_key, there.api_secret, "the sandbox", there.socket_url)
