"""`generate` for scripts and notebooks without `await`."""

from __future__ import annotations

import os
from collections.abc import Callable

from anyio.from_thread import start_blocking_portal

from wan_async.client.wan_client import WanClient
from wan_async.domain.job import AnyJob
from wan_async.task_handles import Clip


def generate_sync(
    job: AnyJob,
    to: str | os.PathLike[str] | None = None,
    *,
    timeout: float | None = None,
    client: Callable[[], WanClient] = WanClient,
) -> Clip:
    """Generate one clip, and block until it is on disk. It also works where an event loop runs, as in a notebook.

    Args:
        job: as for `WanClient.generate`.
        to: as for `WanClient.generate`.
        timeout: as for `WanClient.generate`.
        client: makes the client; by default one of the account in the environment.

    Raises:
        errors.WanError: as for `WanClient.generate`.

    Example:
        >>> from wan_async import Job, generate_sync
        >>> def main() -> None:
        ...     print(generate_sync(Job(image="cat.png", prompt="the cat yawns")).path)
    """

    async def generate() -> Clip:
        async with client() as made:
            return await made.generate(job, to, timeout=timeout)

    with start_blocking_portal() as portal:  # an exception here, such as Ctrl-C, cancels what runs there
        return portal.call(generate)
