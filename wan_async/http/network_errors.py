"""Network failures in words: what happened, and whether trying again can help."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

import httpx

from wan_async.http.proxies import PROXY_VARIABLES


def explain(error: Exception) -> tuple[str, bool]:
    """Why a connection can't be made, for people, and whether only another configuration can fix it.

    The text contains what to do, if anything can be done. It quotes no URL, no password, and of what a server sent the
    status alone.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"the server's certificate is not trusted ({cause.verify_message})"
            return f"{why}: let SSL_CERT_FILE name a file with its authority's certificate, or check the clock", True
    if isinstance(error, httpx.ProxyError):
        return _explain_proxy(error)
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return "the host's name can't be looked up (no network, or a wrong name)", False
        if isinstance(cause, ssl.SSLError):
            return f"no TLS could be agreed on ({cause.reason or 'the server is not one for https'})", False
        if isinstance(cause, OSError) and cause.errno:
            said = os.strerror(cause.errno)  # asyncio has words of its own for it, which name the address
            return said[:1].lower() + said[1:], False
    if isinstance(error, httpx.ConnectTimeout):
        return "the server can't be connected to in time", False
    return type(error).__name__, False


def _explain_proxy(error: httpx.ProxyError) -> tuple[str, bool]:
    if isinstance(error.__cause__, ImportError):
        return "the proxy is a SOCKS one, for which a package is missing: pip install 'httpx[socks]'", True
    if isinstance(error.__cause__, ValueError | httpx.InvalidURL):
        return f"the proxy's URL can't be used: correct {PROXY_VARIABLES} (http://user:password@host:port)", True
    said = str(error)
    if said.startswith("407"):
        why = "the proxy requires a user and a password, or others (HTTP 407): "
        return f"{why}put them into {PROXY_VARIABLES} (http://user:password@host:port)", True
    if "username" in said or "from proxy server" in said:
        return f"the SOCKS proxy doesn't accept the user and password: correct {PROXY_VARIABLES}", True
    status = re.match(r"[1-9][0-9]{2}\b", said)
    return f"the proxy refused the connection ({f'HTTP {status[0]}' if status else 'ProxyError'})", False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [error.__cause__ or error.__context__]
            waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else ()  # an address each
