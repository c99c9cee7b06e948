"""Which proxy serves a URL, by the environment's variables."""

from __future__ import annotations

import ipaddress
import re
from urllib.request import getproxies, proxy_bypass

import httpx


def environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for `url`, None if it names none.

    `HTTP_PROXY`, `HTTPS_PROXY` (which serves wss too), `ALL_PROXY` and `NO_PROXY` are read as Python's urllib does, so
    that the system's own settings count on macOS and Windows; besides, an entry of `NO_PROXY` may be an IPv6 address, a
    network (`10.0.0.0/8`), `*.example.org`, and have a port. A loopback host is never asked for through a proxy.
    """
    host = url.raw_host.decode("ascii").rstrip(".").lower()
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return None
    found = getproxies()
    proxy = found.get({"wss": "https"}.get(url.scheme, url.scheme)) or found.get("all")
    if not proxy or proxy_bypass(url.netloc.decode("ascii")):
        return None
    port = url.port or {"http": 80, "ws": 80}.get(url.scheme, 443)
    if any(_exempts(entry.strip().lower(), host, port) for entry in found.get("no", "").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _exempts(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `NO_PROXY` is about this host and port."""
    bracketed = re.fullmatch(r"\[([0-9a-f:.]+)\](?::([0-9]+))?", entry)
    named = re.fullmatch(r"([^:]+):([0-9]+)", entry)  # an IPv6 address without brackets has no port
    if found := bracketed or named:
        entry = found[1]
        if found[2] is not None and int(found[2]) != port:
            return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.removeprefix("*").strip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


PROXY_VARIABLES = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
