"""How many files and sockets this process may have open, and how many connections fit into that."""

from __future__ import annotations

try:
    import resource
except ImportError:  # Windows has no such limit to observe
    resource = None  # type: ignore[assignment] # None means that it is absent

MAX_CONNECTIONS = 256
LEAST_CONNECTIONS = 4
WANTED = 65_536
"""More descriptors than this are not asked for: some systems take minutes to close them in a child process."""
RESERVED = 64
"""For the journal, logs, the display, threads and what a program has open besides."""
DOWNLOAD_DESCRIPTORS = 5
"""A download's socket, a duplicate of it, its part, and what publishing opens."""


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard one, for the whole process: a library must not."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS refuses more than its own OPEN_MAX
            return


def soft_limit() -> int | None:
    """How many descriptors may be open now; None if there is no limit."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def downloads(wanted: int) -> int:
    """How many downloads at once fit, at most what is wanted: they get a third of what is free."""
    limit = soft_limit()
    if limit is None:
        return wanted
    return max(1, min(wanted, (limit - RESERVED) // 3 // DOWNLOAD_DESCRIPTORS))


def connections() -> int:
    """How many connections to the API fit beside the downloads."""
    limit = soft_limit()
    if limit is None:
        return MAX_CONNECTIONS
    return max(LEAST_CONNECTIONS, min(MAX_CONNECTIONS, (limit - RESERVED) // 2))
