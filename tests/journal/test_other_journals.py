"""What other journals beside one own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from journals import become, enroll, opened

from wan_async.domain.lifecycle import State
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.journal_location import SINGLE
from wan_async.journal.other_journals import owned_by_other_journals
from wan_async.journal.reports import owned_tasks

pytestmark = pytest.mark.anyio


async def own_a_task(home: Path, task: str) -> set[str]:
    """Make a journal with a task; its id and token."""
    async with opened(home) as journal:
        await enroll(journal, "a")
        await become(journal, "a", State.ACCEPTED, task=task)
    known = owned_tasks(home)
    assert known is not None
    return known.names


async def test_journals_of_one_folder_know_each_others_tasks_and_a_copy_elsewhere_knows_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    home = output / FOLDER
    first, second = home / SINGLE / "first", home / SINGLE / "second"
    names = {each: await own_a_task(each, str(number)) for number, each in enumerate((home, first, second))}
    assert names[home] == {"0", "token-0"}
    assert owned_by_other_journals(home, output) == names[first] | names[second]
    assert owned_by_other_journals(first, output) == names[home] | names[second]
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    assert owned_by_other_journals(copy, output) == set(), "what it lost would be taken for the tasks of another"
    (second / FILE).write_bytes(b"damaged " * 600)
    assert owned_by_other_journals(home, output) == names[first]
    assert "not known" in caplog.text
