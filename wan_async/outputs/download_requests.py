"""The requests of downloads: their headers, their redirects, and which hosts they may reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from wan_async import errors
from wan_async.filesystem import is_transient
from wan_async.http.urls import MAX_REDIRECTS, check_output_url, check_peer, is_host_of, refused_url
from wan_async.outputs.download_responses import NETWORK_ERRORS, check_status

HEADERS = {"User-Agent": "wan-async", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Requests:
    """How the URL of an output is requested.

    Attributes:
        transport: sends the requests.
        allow_private: allow URLs of this machine and of private networks.
        base_url: the URL of the API: relative URLs are relative to it, and its own host is always allowed.
        timeout: for each step of a request.
    """

    transport: httpx.AsyncBaseTransport
    allow_private: bool
    base_url: str | None
    timeout: httpx.Timeout

    @asynccontextmanager
    async def get(self, url: str, range_: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The response to a GET after redirects: 200, or if a range was requested also 206 or 416.

        Args:
            url: of the output.
            range_: the headers that ask for a part of it; empty for the whole.

        Raises:
            errors.TryLater: there is no connection, or the status may change.
            errors.JobFailed: the URL can't be requested.
        """
        hop = check_output_url(url, allow_private=self.allow_private, base_url=self.base_url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(hop, range_)
            try:
                if not response.has_redirect_location:
                    check_status(response, ranged=bool(range_))
                    yield response
                    return
                to = response.headers["location"]
            finally:
                await response.aclose()
            hop = check_output_url(to, allow_private=self.allow_private, before=hop, base_url=self.base_url)
        raise refused_url(f"the output's URL redirects more than {MAX_REDIRECTS} times")

    async def _send(self, url: httpx.URL, range_: dict[str, str]) -> httpx.Response:
        extensions: dict[str, Any] = {"timeout": self.timeout.as_dict()}
        if not self.allow_private and not is_host_of(url, self.base_url):
            extensions["check_peer"] = check_peer
        try:
            request = httpx.Request("GET", url, headers=HEADERS | range_, extensions=extensions)
            response = await self.transport.handle_async_request(request)
        except (*NETWORK_ERRORS, errors.WanError):
            raise
        except OSError as error:
            raise errors.TryLater(f"no connection to the output's server ({error})") from error
        except Exception as error:
            if is_transient(error):
                raise errors.TryLater(f"no connection to the output's server ({error})") from error
            raise refused_url(f"the output's URL can't be requested ({type(error).__name__}: {error})") from error
        response.request = request
        return response
