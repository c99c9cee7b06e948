"""Connections: transports, proxies, URLs that may be asked, retries."""
