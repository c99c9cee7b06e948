"""Checks of the way to the API: proxy, name, TLS."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import httpx
from anyio.streams.tls import TLSAttribute

from wan_async import errors
from wan_async.cli.checks.base import Finding, Report, failed, in_time, ok, skipped
from wan_async.http.network_errors import explain
from wan_async.http.proxies import PROXY_VARIABLES, environment_proxy
from wan_async.http.transport import shared_ssl_context

LOOKUP_SECONDS = 3.0
CONNECT_SECONDS = 3.0
PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80, "socks5": 1080, "socks5h": 1080}
SECURE = ("https", "wss")


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a connection is made to: the API's host, or the proxy before it."""

    host: str
    port: int
    secure: bool

    @property
    def is_address(self) -> bool:
        """Whether the host is an address and no name."""
        return _is_address(self.host)


def peer_of(url: httpx.URL) -> Peer:
    """The host of a URL."""
    return Peer(url.host, url.port or PORTS.get(url.scheme, 443), url.scheme in SECURE)


async def check_way(base_url: str, report: Report) -> bool:
    """Check proxy, name and TLS of the API; returns whether requests can be sent.

    Args:
        base_url: the API's URL.
        report: takes the findings.
    """
    url = httpx.URL(base_url)
    try:
        proxy = environment_proxy(url)
        via = None if proxy is None else httpx.URL(proxy)
        if via is not None and not via.host:
            raise httpx.InvalidURL("no host")
        first = peer_of(via if via is not None else url)
    except (httpx.InvalidURL, ValueError):
        why = f"correct {PROXY_VARIABLES} (http://user:password@host:port)"
        report(failed("proxy", "the proxy's URL can't be used", why))
        return False
    if via is None:
        report(ok("proxy", f"none for {url.host}: direct connections", proxy=None))
    else:
        said = f"{via.scheme}://{first.host}:{first.port}, by the environment"
        report(ok("proxy", said, proxy=f"{via.scheme}://{first.host}:{first.port}"))
    found = await check_name(first, is_proxy=via is not None)
    report(found)
    if found.status == "failed":
        report(skipped("tls", "not checked without an address"))
        return False
    if via is not None:
        report(skipped("tls", "checked by the first request, through the proxy"))
        return True
    connected = await _check_connection(first)
    report(connected)
    return connected.status != "failed"


async def check_name(peer: Peer, *, is_proxy: bool = False) -> Finding:
    """Look a host's name up."""
    if peer.is_address:
        return ok("dns", f"{peer.host} is an address: no name to look up")
    what = f"the proxy {peer.host}" if is_proxy else peer.host
    advice = (
        f"correct {PROXY_VARIABLES}"
        if is_proxy
        else "check the network and the name server; behind a proxy set HTTPS_PROXY"
    )
    began = time.monotonic()
    try:
        answers = await in_time(LOOKUP_SECONDS, _lookup, peer.host, peer.port)
    except TimeoutError:
        return failed("dns", f"{what}: the name server does not answer within {LOOKUP_SECONDS:.0f} s", advice)
    except (OSError, UnicodeError) as error:
        said = (error.strerror or "") if isinstance(error, OSError) else "it is no host name"
        return failed("dns", f"{what} can't be looked up ({said})", advice)
    taken = time.monotonic() - began
    return ok("dns", f"{what} is {answers[0]} ({taken * 1000:.0f} ms)", addresses=answers, seconds=round(taken, 3))


def _lookup(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


async def _check_connection(peer: Peer) -> Finding:
    where = f"{peer.host}:{peer.port}"
    advice = "check the network and its firewall; behind a proxy set HTTPS_PROXY"
    try:
        context = shared_ssl_context() if peer.secure else None
        with anyio.fail_after(CONNECT_SECONDS):
            if context is None:
                async with await anyio.connect_tcp(peer.host, peer.port):
                    return ok("tls", f"plain connection to {where}, which is allowed on this machine")
            async with await anyio.connect_tcp(
                peer.host, peer.port, tls=True, ssl_context=context, tls_standard_compatible=False
            ) as stream:
                version = stream.extra_attributes[TLSAttribute.tls_version]()
                certificate = stream.extra_attributes[TLSAttribute.peer_certificate]()
    except errors.Unusable as error:
        return failed("tls", str(error), "then run doctor again")
    except TimeoutError:
        return failed("tls", f"{where} does not answer within {CONNECT_SECONDS:.0f} s", advice)
    except (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        why, hopeless = explain(error)
        why, _, todo = why.partition(": ") if hopeless else (why, "", "")
        return failed("tls", f"{where}: {why}", todo or advice)
    return ok("tls", f"{version} with {where}{_until(certificate)}", version=version)


def _until(certificate: object) -> str:
    ends = certificate.get("notAfter") if isinstance(certificate, dict) else None
    if not isinstance(ends, str):
        return ""
    when = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
    return f", its certificate is trusted and valid until {when:%Y-%m-%d}"
