"""Copies of journals on which plans are made, of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple
from pathlib import Path

import journals
import postgres_server
import pytest
from journals import ACCOUNT, ELSEWHERE, become, enroll, job

from wan_async.batch.plan import Plan, Prepared, make_plan
from wan_async.engine.options import Options
from wan_async.errors import Unusable
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.journal_copy import scratch
from wan_async.journal.render_times import renders_in
from wan_async.journal.reports import report, results_in
from wan_async.journal.sql_journal import SqlJournal
from wan_async.threads import inline

pytestmark = [pytest.mark.anyio, pytest.mark.asyncio_only]


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    if request.param == "sqlite":
        yield tmp_path
        return
    with postgres_server.database() as dsn:
        yield DatabaseHome(dsn, "out")


def opened(home: Home) -> AbstractAsyncContextManager[SqlJournal]:
    return journals.opened(home) if isinstance(home, Path) else journals.opened_in(home.dsn, Path(home.output))


async def plan_in(journal: SqlJournal) -> Plan:
    """A plan of a batch in which one job was edited, one left out and one added; no file is there any more."""
    batch = [job("a"), job("b", "edited", 1), job("e", index=2)]
    return await make_plan(journal, Prepared(batch), Options(), Path("out"), lambda name: None, inline)


async def test_a_plan_on_a_copy_is_that_on_the_journal_which_stays_as_it_is(home: Home) -> None:
    async with opened(home) as journal:
        a, b, c, d = await enroll(journal, "a", "b", "c", "d")
        await become(journal, a, "stored")
        await become(journal, b, "stored")
        await become(journal, c, "accepted")
        await become(journal, d, "missing")
    before = report(home)
    with scratch(home) as copy:
        assert copy is not None
        async with copy.open(ACCOUNT) as trial:
            planned = await plan_in(trial)
            assert astuple(await trial.money()) == (150, 60)
        with copy.reading() as db:
            assert [(row.job, row.state) for row in results_in(db)] == [
                ("a", "ended"),
                ("b", "planned"),
                ("e", "planned"),
            ]
            assert renders_in(db) == journals.past_renders(home)
    assert report(home) == before
    assert ([one.key for one in planned.chosen], len(planned.resumed), len(planned.gone)) == (["b", "e"], 3, 1)
    async with opened(home) as journal:
        assert await plan_in(journal) == planned


async def test_a_copy_is_refused_to_another_account_as_the_journal_is(home: Home) -> None:
    async with opened(home) as journal:
        await become(journal, "a", "accepted")
    with scratch(home) as copy:
        assert copy is not None
        with pytest.raises(Unusable, match="belongs to the account at"):
            async with copy.open(ELSEWHERE):
                pass


def test_there_is_no_copy_without_a_journal(home: Home) -> None:
    with scratch(home) as copy:
        assert copy is None
