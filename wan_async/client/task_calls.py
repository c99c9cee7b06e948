"""Remote tasks: list, get, cancel, kill, delete their files."""

from __future__ import annotations

from wan_async import errors
from wan_async.client.session import Call, Session, names_of
from wan_async.domain.remote_task import TaskDetail, TaskId, TaskToken
from wan_async.task_handles import Task


class TaskCalls:
    """The remote tasks of a client's account. Made by `WanClient` as its `tasks`.

    A task is given as a `Task`, or by its id as text.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._api = session.dependencies.api

    async def list(self, limit: int = 20, *, start: int = 0) -> list[TaskDetail]:
        """The tasks of the model, newest first. With a team's key the list has teammates' tasks, too.

        Args:
            limit: how many, 100 at most.
            start: how many of the newest to leave out.
        """

        async def listed(call: Call) -> list[TaskDetail]:
            return (await self._api.list_tasks(start, limit)).tasklist

        return await self._session.call(listed)

    async def get(self, task: Task | str) -> TaskDetail:
        """A task as it stands.

        Raises:
            errors.NotFound: the service knows no such task; a fresh one may lag for a few seconds.
        """
        task = _task(task)
        return await self._session.call(lambda call: self._api.detail(*names_of(task)), task=task)

    async def cancel(self, task: Task | str) -> None:
        """End a task: cancelled if it is still queued, killed if it runs. A killed task may still be charged.

        Raises:
            errors.NotFound: there is no such task, or it has ended.
        """
        task = _task(task)

        async def cancel(call: Call) -> None:
            try:
                await self._api.cancel(TaskId(task.id or (await self._api.detail(*names_of(task))).id))
            except errors.NotFound:
                await self._api.kill(*names_of(task))

        await self._session.call(cancel, task=task)

    async def kill(self, task: Task | str) -> None:
        """End a running task. It may still be charged.

        Raises:
            errors.NotFound: there is no such task, or it does not run.
        """
        task = _task(task)
        await self._session.call(lambda call: self._api.kill(*names_of(task)), task=task)

    async def delete_files(self, task: Task | str) -> None:
        """Remove the input and output files of an ended task from the service. Doing it again does nothing."""
        task = _task(task)

        async def delete(call: Call) -> None:
            token = task.token or (await self._api.detail(*names_of(task))).socketaccesstoken
            await self._api.delete_files(TaskToken(token))

        await self._session.call(delete, task=task)


def _task(task: Task | str) -> Task:
    return Task(task) if isinstance(task, str) else task
