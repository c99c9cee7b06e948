"""The first contact with the service: whether it can be reached, and whether the key belongs to this journal."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from wan_async import errors
from wan_async.domain.attempt import Account
from wan_async.domain.remote_task import TaskId
from wan_async.engine.environment import Environment
from wan_async.wiro import schemas

FIRST_CONTACT_SECONDS = 60.0
"""How long connection errors are retried before the API has ever answered; afterwards they are waited out."""

SILENT_SECONDS = 2.5
"""A first answer that takes longer is waited for visibly."""

T = TypeVar("T")

log: logging.Logger = logging.getLogger(__name__)


async def first_answer(environment: Environment, ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` returns, tried again while the API can't be reached.

    Raises:
        errors.Unusable: it can't be reached for `FIRST_CONTACT_SECONDS`, or trying again can't help.
        errors.StopBatch: it refuses the credentials.
    """
    give_up = anyio.current_time() + FIRST_CONTACT_SECONDS
    failures = 0
    while True:
        try:
            return await _unless_silent(environment, ask)
        except errors.TryLater as error:
            if error.hopeless:
                raise errors.Unusable(f"{error.message} ({environment.api.base_url})") from None
            failures += 1
            wait = environment.delay(failures, error)
            if error.status == 429:  # that is an answer, too
                give_up = anyio.current_time() + wait + FIRST_CONTACT_SECONDS
            if anyio.current_time() + wait > give_up:
                raise errors.Unusable(
                    f"the API at {environment.api.base_url} can't be reached ({error.message}): check the network and "
                    "run the same command again"
                ) from None
            left = give_up - anyio.current_time()
            log.warning("%s: trying again in %.0f s, giving up in %.0f s", error.message, wait, left)
            if not await environment.shutdown.pause(wait):
                raise errors.Unusable(f"the API was not reached before the run was stopped ({error.message})") from None
        except (errors.NotFound, errors.StopBatch) as error:
            if isinstance(error, errors.StopBatch) and error.authentication:
                raise
            raise errors.Unusable(f"{error.message} ({environment.api.base_url})") from None


async def _unless_silent(environment: Environment, ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` returns; says that it is being waited for if that takes long."""
    raised: list[Exception] = []
    answers: list[T] = []

    async def say() -> None:
        await anyio.sleep(SILENT_SECONDS)
        log.warning("waiting for an answer of %s", environment.api.base_url)

    async with anyio.create_task_group() as group:
        group.start_soon(say)
        try:
            answers.append(await ask())
        except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
            raised.append(error)
        group.cancel_scope.cancel()
    if raised:
        raise raised[0]
    return answers[0]


def list_page(environment: Environment) -> Callable[[int], Awaitable[schemas.Answer]]:
    """Lists tasks from a place on, as patiently as at the first contact."""
    return lambda start: first_answer(environment, lambda: environment.api.list_tasks(start, tries=1))


async def prove_key(environment: Environment, account: Account) -> None:
    """Another key than before at the same origin is fine if it may see a task of this journal."""
    for task_id in await environment.journal.latest_tasks():
        try:
            await environment.api.detail(TaskId(task_id))
        except errors.NotFound:
            continue
        await environment.journal.accept_key(account, environment.clock())
        return
    raise errors.Unusable(
        f"this folder's journal belongs to another account at {account.origin}: use that account's key, or another "
        "output folder (-o)"
    )
