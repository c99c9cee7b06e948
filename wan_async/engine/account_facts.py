"""What a run knows of the account and the service: the highest task id, echoed fields, projects."""

from __future__ import annotations

from collections.abc import Mapping

from wan_async.engine.task_listing import NO_NUMBER, task_number
from wan_async.journal.base import Journal


class AccountFacts:
    """Facts that tell our tasks from others, kept in the journal.

    Attributes:
        high_id: the highest task id seen so far.
        projects: ids of the projects that this key's own tasks showed.
        key_since: since when this key is used, in unix seconds.
        taught: whether a task of ours has shown what the service echoes.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._echoes: dict[str, bool] = {}
        self.high_id: int = 0
        self.projects: set[str] = set()
        self.key_since: float = 0.0
        self.taught: bool = False

    async def load(self) -> None:
        """Reads what earlier runs learned."""
        self._echoes = await self._journal.echoes()
        self.taught = bool(self._echoes)
        self.projects = await self._journal.projects()
        self.key_since = await self._journal.key_since()

    def note_id(self, task_id: str) -> None:
        """A task with this id exists. An id that is not a number is ignored."""
        number = task_number(task_id)
        if number < NO_NUMBER:
            self.high_id = max(self.high_id, number)

    async def note_echoes(self, seen: Mapping[str, bool]) -> None:
        """A task of ours showed which fields come back as they were sent."""
        self.taught = True
        known = self._echoes
        new = {name: same for name, same in seen.items() if name not in known or (known[name] and not same)}
        if new:
            self._echoes.update(new)
            await self._journal.echoed(new)

    async def note_project(self, project: str | None) -> None:
        """A task of ours showed its project: a task that shows another is a teammate's (WIRO_API 5)."""
        if project and project not in self.projects:
            self.projects.add(project)
            await self._journal.project_seen(project)

    @property
    def echoed(self) -> list[str]:
        """Fields that the service echoes verbatim, as far as this journal has seen."""
        return [name for name, verbatim in self._echoes.items() if verbatim]
