"""Which URLs and hosts may be asked: the API's, and those that outputs are fetched from."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import httpx

from wan_async import errors


def is_private(base_url: str) -> bool:
    """Whether the API itself is on this machine or a private network, so that its outputs may be as well."""
    host = urlsplit(base_url).hostname or ""
    if is_local_host(host):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def is_local_host(host: str) -> bool:
    """Whether `host` names this machine by a literal loopback address or as `localhost`."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_url(url: str, what: str, schemes: tuple[str, str] = ("https", "http")) -> str:
    """`url` without a trailing slash, if credentials may be sent there.

    Args:
        url: the base URL of the API, or the address of the socket.
        what: how to call it in the message, usually the name of the variable that sets it.
        schemes: the secure scheme and its plain sibling, which is good for loopback hosts alone.

    Raises:
        errors.InvalidBatch: if it is no such URL, or would carry credentials in plain text.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        if not url.isprintable() or " " in url or "\\" in url:  # parsers differ about these, so also about the host
            raise ValueError("spaces, control characters and backslashes have no place in it")
    except ValueError as error:
        raise errors.InvalidBatch([errors.Problem(what, f"{url!r} is not a URL: {error}")]) from None
    secure, plain = schemes
    if parts.scheme not in schemes or not host:
        raise errors.InvalidBatch([errors.Problem(what, f"{url!r} is not a {secure}:// URL")])
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise errors.InvalidBatch([errors.Problem(what, "no user, query or fragment belongs into this URL")])
    if parts.scheme == plain and not is_local_host(host):
        raise errors.InvalidBatch(
            [errors.Problem(what, f"{url!r} would send your API key in plain text: use {secure}:// (plain {plain}:// "
                                  "is accepted for this machine alone)")]
        )  # fmt: skip
    return url.rstrip("/")


def origin(url: str) -> str:
    """Scheme, host and port of a URL, normalised: what credentials and a journal belong to."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80, "wss": 443, "ws": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}"


MAX_REDIRECTS = 5


def check_output_url(
    url: str | httpx.URL, *, allow_private: bool, before: httpx.URL | None = None, base_url: str | None = None
) -> httpx.URL:
    """The URL, if it may be asked for an output.

    Args:
        url: as the service or a redirect gave it; white space around it doesn't count.
        allow_private: whether hosts of this machine and of private networks are fine, because the API is such a one.
        before: the URL that redirected here, to which this one may be relative.
        base_url: where the API is, to which it may be relative as well; its own host is never refused.

    Raises:
        errors.JobFailed: of kind `download`, with the reason.
    """
    try:
        parsed = _absolute(str(url).strip(WHITE_SPACE), before, base_url)
        host = parsed.host and parsed.raw_host.decode("ascii")  # the former raises where the latter is no valid IDNA
        private_too = allow_private or is_host_of(parsed, base_url)
    except Exception as error:  # noqa: BLE001 - whatever httpx and idna make of it
        raise refused_url(f"the output's URL is none: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise refused_url(f"an output is not fetched by {parsed.scheme or 'no scheme'}://, only by http(s)")
    if not HOST.fullmatch(host):
        raise refused_url("the output's URL names no host")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise refused_url("the output's URL names no port that there is")
    if parsed.userinfo:
        raise refused_url("the output's URL carries a user or a password")
    if before is not None and before.scheme == "https" and parsed.scheme == "http":
        raise refused_url("the output's server redirects from https to plain http")
    if not private_too and _is_private(host):
        raise refused_url(f"the output's URL names a private host ({host})")
    return parsed


WHITE_SPACE = "".join(map(chr, range(33))) + "\x7f\x85\xa0\u2028\u2029\ufeff"
HOST = re.compile(r"(?=.{1,254}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""A name whose labels fit the DNS, or an IPv6 address."""


def _absolute(url: str, before: httpx.URL | None, base_url: str | None) -> httpx.URL:
    if not url:
        raise ValueError("it is empty")
    parsed = httpx.URL(url)
    if parsed.scheme:
        return parsed
    if before is None and base_url is not None:
        before = httpx.URL(base_url.rstrip("/") + "/")
    if before is not None:
        return before.join(url)
    if url.startswith("//"):
        return httpx.URL(f"https:{url}")
    raise ValueError("it is relative, and to what is not known")


def is_host_of(url: httpx.URL, base_url: str | None) -> bool:
    """Whether a URL's host is that of `base_url`."""
    return base_url is not None and url.raw_host == httpx.URL(base_url).raw_host


def refused_url(message: str) -> errors.JobFailed:
    """The error for a URL that is not asked."""
    return errors.JobFailed(message, kind="download")


LOCAL_NAMES = ("localhost", "localdomain", "localdomain4", "localdomain6", "local", "internal", "home.arpa")
"""Domains that never are public (RFC 6761, 6762, 8375), and those of a usual /etc/hosts."""
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
DOCUMENTATION = ipaddress.ip_network("3fff::/20")
HOLDS_IPV4 = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
FAKED = ipaddress.ip_network("198.18.0.0/15")


def _is_private(host: str) -> bool:
    """Whether a host isn't public: a literal address, in any of the forms that resolvers take, or a local name."""
    name = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name if ":" in name else socket.inet_aton(name))  # inet_aton: 2130706433, 0x7f.1
    except (OSError, ValueError):
        return "." not in name or name.endswith(tuple(f".{local}" for local in LOCAL_NAMES))
    return not _is_public(address)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is reached over the internet; one that leads to an IPv4 address, whether that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour is not None:
            address = address.sixtofour
        elif address in NAT64_LOCAL or any(address in network for network in HOLDS_IPV4):
            address = ipaddress.IPv4Address(address.packed[-4:])
        elif address not in GLOBAL_UNICAST or address in DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast


def check_peer(address: str) -> None:
    """Refuses to send anything to an address that a name turned out to have.

    198.18.0.0/15 is let through: nothing is there, but some proxies that work as a network interface answer every name
    with such an address.

    Raises:
        errors.JobFailed: of kind `download`: it is not public.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if not _is_public(parsed) and parsed not in FAKED:
        raise refused_url(f"the output's URL leads to a private address ({address})")
