"""The behaviour of every journal; each implementation is run through all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import journals
import postgres_server
import pytest
from journals import ACCOUNT, ELSEWHERE, FORM, attempt_at, become, end, enroll, job, todo

from wan_async.domain.attempt import Attempt, Clip, Money
from wan_async.domain.lifecycle import ATTEMPT_STATES, OPEN, UNANSWERED, State
from wan_async.domain.model import WAN
from wan_async.errors import Unusable
from wan_async.journal.base import ContentLocked, Journal, NameTaken, OverBudget, TaskTaken

pytestmark = pytest.mark.anyio
Opener = Callable[..., AbstractAsyncContextManager[Journal]]
"""What opens a journal, named by a folder, for an account; see `journals.opened`."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opener]:
    if request.param == "sqlite":
        yield journals.opened
    else:
        with postgres_server.database() as dsn:
            yield partial(journals.opened_in, dsn)


async def test_attempts_at_a_job_are_numbered_in_order(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        made = [attempt_at(job(key, content), number=0) for key, content in (("a", "1"), ("a", "2"), ("b", "3"))]
        for attempt in made:
            await journal.intent(attempt, cap=None)
        assert [(attempt.id, attempt.number) for attempt in made] == [(1, 1), (2, 2), (3, 1)]
        assert [(found.id, found.number) for found in await journal.open_attempts()] == [(1, 1), (2, 2), (3, 1)]
        await journal.rejected(made[0], "not now")
        await journal.intent(made[0], cap=None)
        assert (made[0].id, made[0].number) == (1, 1)


async def test_attempts_in_open_states_are_resumed_oldest_first(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        states: list[State] = [*ATTEMPT_STATES]
        for number, state in enumerate(states):
            await become(journal, f"j{number}", state)
        found = await journal.open_attempts()
        assert [one.state for one in found] == [state for state in states if state in OPEN]
        assert [one.state for one in await journal.unanswered()] == [State.INTENT, State.UNKNOWN]
        assert [one.id for one in found] == sorted(one.id for one in found)


async def test_a_journal_has_one_identity_that_no_other_has(tmp_path: Path, opened: Opener) -> None:
    found = set()
    for name in ("one", "one", "two"):
        async with opened(tmp_path / name) as journal:
            found.add(await journal.identity())
            found.add(await journal.identity())
    assert len(found) == 2


async def test_a_cancellation_during_a_commit_leaves_no_attempt_without_its_row(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        attempt = attempt_at("a", reserved=5)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.intent(attempt, cap=None)
            await anyio.sleep_forever()
        assert (attempt.id, attempt.state) == (1, "intent")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
            await anyio.sleep_forever()
        assert (attempt.state, attempt.task_id) == ("accepted", "1")


async def test_an_accepted_attempt_can_not_become_unanswered(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, "a")
        attempt = await become(journal, one, "accepted", task="9")
        stale = replace(attempt, state=State.INTENT, task_id=None, token=None)
        for write in (
            journal.unknown(stale, "no answer in time", 5.0),
            journal.absent(stale),
            journal.rejected(stale, "no"),
            journal.intent(stale, cap=None),
        ):
            with pytest.raises(Unusable, match="run the same command again"):
                await write
        assert stale.state == "intent"
        (found,) = await journal.open_attempts()
        assert found == attempt
        assert [task_id for task_id, _ in await journal.owned()] == ["9"]
        assert await todo(journal) == []


async def test_an_attempt_without_a_row_is_refused(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        for write in (
            journal.unknown(attempt_at("a"), "", 1.0),
            journal.accepted(attempt_at("a"), "1", None, b"", 1.0, adopted=True),
        ):
            with pytest.raises(Unusable):
                await write
        assert await journal.owned() == []


async def test_a_task_belongs_to_one_attempt_and_so_does_its_token(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await become(journal, "a", "accepted", task="1")
        other = await become(journal, "b", "unknown")
        for task, token in (("1", None), ("1", "another"), (None, "token-1"), ("2", "token-1")):
            with pytest.raises(TaskTaken):
                await journal.accepted(other, task, token, b"", 1.0, adopted=True)
            assert (other.state, other.task_id, other.token) == ("unknown", None, None)
        await journal.accepted(other, None, "token-2", b"", 1.0, adopted=True)
        with pytest.raises(TaskTaken):
            await end(journal, other, task_id="1")
        assert other.state == "accepted"
        assert other.adopted
        third = await become(journal, "c", "intent")
        await journal.accepted(third, "3", None, b"", 1.0, adopted=False)
        fourth = await become(journal, "d", "intent")
        await journal.accepted(fourth, "4", None, b"", 1.0, adopted=False)
        assert {task_id or token for task_id, token in await journal.owned()} == {"1", "token-2", "3", "4"}
        assert await journal.latest_tasks() == ["4", "3", "1"]


async def test_an_answer_may_be_written_twice(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        attempt = await become(journal, "a", "accepted", task="1")
        await journal.accepted(attempt, "1", "token-1", b"again", 1.0, adopted=False)
        assert attempt.state == "accepted"


MONEY: dict[str, tuple[int, int]] = {
    "intent": (0, 60),
    "unknown": (0, 60),
    "absent": (0, 0),
    "quarantined": (0, 60),
    "abandoned": (0, 60),
    "rejected": (0, 0),
    "accepted": (0, 60),
    "ended": (50, 0),
    "stored": (50, 0),
    "failed": (50, 0),
    "cancelled": (50, 0),
    "missing": (50, 0),
    "given_up": (50, 0),
}


@pytest.mark.parametrize("state", ATTEMPT_STATES)
async def test_the_reserved_and_settled_amounts_in_each_state(tmp_path: Path, opened: Opener, state: State) -> None:
    async with opened(tmp_path) as journal:
        await become(journal, "a", state)
        assert await journal.money() == Money(*MONEY[state])
    async with opened(tmp_path) as journal:
        assert await journal.money() == Money(*MONEY[state])


async def test_a_missing_task_with_unknown_cost_stays_reserved(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        attempt = await become(journal, "a", "accepted")
        await journal.closed(attempt, State.MISSING, "the service does not know it")
        assert await journal.money() == Money(0, 60)
        with pytest.raises(OverBudget):
            await journal.intent(attempt_at("b", reserved=1), cap=60)


async def test_an_unbilled_failure_releases_its_reservation(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await become(journal, "a", "failed", cost=0)
        assert await journal.money() == Money(0, 0)


async def test_concurrent_intents_stay_below_the_cap(tmp_path: Path, opened: Opener) -> None:
    written: list[Attempt] = []
    refused: list[Attempt] = []

    async def intend(journal: Journal, number: int) -> None:
        attempt = attempt_at(f"j{number}", reserved=7)
        try:
            await journal.intent(attempt, cap=100)
            written.append(attempt)
        except OverBudget:
            refused.append(attempt)

    for _ in range(2):  # the second time after a restart
        async with opened(tmp_path, inline=False) as journal, anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(intend, journal, number)
    assert len(written) == 14
    assert len({attempt.id for attempt in written}) == 14
    assert all(attempt.id == 0 and attempt.state == "rejected" for attempt in refused)
    async with opened(tmp_path) as journal:
        assert await journal.money() == Money(0, 98)
        assert len(await journal.open_attempts()) == 14
        await end_one(journal, written[0], cost=5)
        assert await journal.money() == Money(5, 91)
        await journal.intent(attempt_at("x", reserved=4), cap=100)
        with pytest.raises(OverBudget):
            await journal.intent(attempt_at("y", reserved=1), cap=100)
        await journal.intent(attempt_at("z", reserved=1), cap=None)


async def end_one(journal: Journal, attempt: Attempt, *, cost: int) -> None:
    await journal.accepted(attempt, "1", None, b"", 1.0, adopted=False)
    await end(journal, attempt, cost=cost)


async def test_a_job_removed_from_the_batch_keeps_its_attempts(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        a, b = await enroll(journal, "a", "b")
        await become(journal, a, "accepted")
        await become(journal, b, "stored")
        await enroll(journal, "c")
        assert [one.job for one in await journal.open_attempts()] == ["a"]
        assert await journal.stored_attempts() == []
        await enroll(journal, "a", "b")
        assert await todo(journal) == []
        assert [attempt.job for attempt, _ in await journal.stored_attempts()] == ["b"]


async def test_a_clip_of_a_job_still_in_the_batch_is_not_taken_over(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, ("a", "same"))
        await become(journal, one, "stored")
        await enroll(journal, ("a", "new"), ("b", "same"))
        assert await todo(journal) == ["a", "b"]
        await enroll(journal, ("b", "same"), ("c", "unlike"))
        assert await todo(journal) == ["c"]


@pytest.mark.parametrize("state", [state for state in ATTEMPT_STATES if state != "stored"])
async def test_only_recoverable_attempts_are_taken_over(tmp_path: Path, opened: Opener, state: State) -> None:
    async with opened(tmp_path) as journal:
        (old,) = await enroll(journal, ("old", "same"))
        await become(journal, old, state)
        await enroll(journal, ("new", "same"))
        assert await todo(journal) == ([] if state in OPEN else ["new"])


async def test_a_failed_enrolment_leaves_the_previous_batch_unchanged(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        with pytest.raises(ValueError, match="shorter"):
            await journal.enroll([job("c"), job("d", index=1)], ["{}"])
        assert await todo(journal) == ["a", "b"]


async def test_a_name_has_one_owner(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        assert await journal.owner_of("cat") is None
        await journal.claim("a", "cat", "Cat")
        await journal.claim("a", "cat", "Cat")
        with pytest.raises(NameTaken):
            await journal.claim("b", "cat", "cat")
        assert await journal.owner_of("cat") == "a"
        await journal.claim("a", "dog", "dog")
    async with opened(tmp_path) as journal:
        await enroll(journal, "b")
        await journal.claim("b", "cat", "cat")
        assert await journal.owner_of("cat") == "b"
        await journal.intent(replace(attempt_at("b"), name="cat"), cap=None)
        await enroll(journal, "a", "b")
        with pytest.raises(NameTaken):
            await journal.claim("a", "cat", "Cat")
        await journal.claim("a", "dog", "dog")


async def test_a_name_that_its_job_no_longer_has_and_never_used_is_free(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        await journal.claim("a", "a", "a")
        await journal.claim("b", "001", "001")
        await enroll(journal, "a", "b")
        assert await journal.owner_of("001") is None
        assert await journal.owner_of("a") == "a"
        await journal.claim("a", "001", "001")


async def test_one_of_many_concurrent_claims_of_a_name_succeeds(tmp_path: Path, opened: Opener) -> None:
    keys = [f"j{number}" for number in range(20)]
    refused: list[str] = []

    async def claim(journal: Journal, key: str) -> None:
        try:
            await journal.claim(key, "cat", "cat")
        except NameTaken:
            refused.append(key)

    async with opened(tmp_path, inline=False) as journal:
        await enroll(journal, *keys)
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(claim, journal, key)
        owner = await journal.owner_of("cat")
    assert sorted([*refused, str(owner)]) == sorted(keys)


async def test_a_renamed_file_still_belongs_to_its_attempt(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, "a")
        attempt = await become(journal, one, "ended")
        assert await journal.clips(attempt) == []
        await journal.part(attempt, 1, "", '"e1"')
        await journal.part(attempt, 0, "", '"e0"')
        await journal.part(attempt, 0, "", '"e2"')
        assert await journal.clips(attempt) == [
            Clip(0, "", '"e2"', None, None, None),
            Clip(1, "", '"e1"', None, None, None),
        ]
        kept = Clip(0, "a.mp4", '"e2"', "5ha", 9, "video/mp4")
        await journal.checked(attempt, kept)
        await journal.checked(attempt, kept)
        assert (await journal.clips(attempt))[0] == kept
        assert await journal.file_known("a.mp4") == attempt.id
        await journal.renamed("a.mp4", "a.1.mp4")
        assert await journal.file_known("a.mp4") is None
        assert await journal.file_known("a.1.mp4") == attempt.id


async def test_the_plain_name_belongs_to_the_take_at_the_present_content_then_to_the_later(
    tmp_path: Path, opened: Opener
) -> None:
    async with opened(tmp_path) as journal:
        takes = []
        for prompt in ("rain", "snow", "hail", "rain"):
            await journal.enroll([job("a", prompt)], ["{}"])
            takes.append(await become(journal, job("a", prompt), "stored"))
        rain, snow, hail, rain_again = (take.id for take in takes)
        assert await journal.present_take(rain, hail) == await journal.present_take(hail, rain) == rain
        assert await journal.present_take(rain, rain_again) == rain_again
        assert await journal.present_take(snow, hail) == hail
        await enroll(journal, "b")
        assert await journal.present_take(hail, rain) == hail, "the batch names the job no longer"


async def test_the_holder_of_a_content_is_the_job_with_the_clip_before_one_that_may_get_it(
    tmp_path: Path, opened: Opener
) -> None:
    async with opened(tmp_path) as journal:
        jobs = await enroll(journal, ("a", "1"), ("b", "1"), ("c", "2"), ("d", "3"), ("e", "4"))
        for one, state in zip(jobs, ("accepted", "stored", "failed", "quarantined", "rejected"), strict=True):
            await become(journal, one, state)
        assert await journal.holders() == {"1": "b", "3": "d"}
        found = await journal.stored_at("b", "1")
        assert found is not None
        assert (found[0].job, [clip.sha256 for clip in found[1]]) == ("b", ["5ha"])
        assert await journal.stored_at("a", "1") is None
        assert await journal.hash_of(found[1][0].file) == "5ha"
        assert await journal.hash_of("foreign.mp4") is None


async def test_a_shared_clip_is_stored_at_once_and_free_until_it_is_forgotten(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        first, second = await enroll(journal, ("a", "1"), ("b", "1"))
        await become(journal, first, "stored", cost=50)
        shared = attempt_at(second, number=0)
        await journal.share(shared, [Clip(0, "b.mp4", "", "5ha", 123, "video/mp4")], 1005.0)
        assert (shared.id, shared.number, shared.state, shared.cost, shared.is_shared) == (2, 1, "stored", 0, True)
        assert await todo(journal) == []
        assert (await journal.money()) == Money(50, 0)
        assert [attempt.job for attempt, _ in await journal.stored_attempts()] == ["a", "b"]
        assert await journal.holders() == {"1": "a"}
        await journal.unshared(shared)
        assert await todo(journal) == ["b"]
        assert await journal.file_known("b.mp4") == shared.id


async def test_stored_clips_are_read_in_pages(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        for one in await enroll(journal, *"abcdefg"):
            await become(journal, one, "stored")
        await enroll(journal, "a", "f", "g")
        pages, after = [], 0
        while page := await journal.stored_attempts(after, 2):
            after = page[-1][0].id
            pages.append([attempt.job for attempt, _ in page])
        assert pages == [["a", "f"], ["g"]]


async def test_an_upload_is_cached_until_it_expires_or_is_deleted(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        assert await journal.upload_of("sha", 0.0) is None
        await journal.uploaded("sha", "https://cdn/1", 100.0)
        assert await journal.upload_of("sha", 99.0) == "https://cdn/1"
        assert await journal.upload_of("sha", 100.0) is None
        await journal.uploaded("sha", "https://cdn/2", 200.0)
        assert await journal.upload_of("sha", 100.0) == "https://cdn/2"
        await journal.forget_upload("sha")
        assert await journal.upload_of("sha", 0.0) is None


async def test_a_field_that_was_echoed_differently_is_never_trusted_again(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        assert await journal.echoes() == {}
        await journal.echoed({"prompt": True, "seed": False})
        await journal.echoed({"prompt": False, "seed": True, "resolution": True})
        await journal.echoed({"prompt": True})
        assert await journal.echoes() == {"prompt": False, "seed": False, "resolution": True}


async def test_the_highest_cost_of_each_kind_of_task_is_known(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        assert await journal.dearest(WAN.price_fields) == {}
        for number, (resolution, cost) in enumerate([("480P", 5), ("480P", 9), ("480P", 7), ("720P", 0), ("720P", 3)]):
            attempt = attempt_at(f"j{number}", resolution=resolution)
            await journal.intent(attempt, cap=None)
            await journal.accepted(attempt, str(number), None, b"", 1.0, adopted=False)
            await end(journal, attempt, cost=cost)
        assert await journal.dearest(WAN.price_fields) == {("480P", "Default"): 9, ("720P", "Default"): 3}


async def test_a_cancelled_task_is_rechecked_until_its_cost_is_settled(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        charged = await become(journal, "a", "cancelled", cost=50)
        free, late, there = [await become(journal, key, "cancelled", cost=0) for key in "bcd"]
        assert await journal.to_recheck() == [charged, free, late, there]
        await journal.rechecked(charged, 50, again=False)
        await journal.rechecked(free, 0, again=False)
        await journal.rechecked(late, 30, again=False)
        await end(journal, there, cost=20)  # its outputs became available after all
        assert await journal.to_recheck() == []
        await journal.stored(there, 9.0)
        assert await journal.to_recheck() == []
        assert (late.state, there.state, there.recheck) == ("cancelled", "stored", False)
        assert await journal.money() == Money(100, 0)


async def test_each_submitted_content_is_listed_once(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await become(journal, job("a", "same"), "failed")
        await become(journal, job("b", "same"), "intent")
        await become(journal, job("c", "other"), "intent")
        assert await journal.contents() == [(FORM, ""), (FORM, "")]


async def test_a_journal_without_attempts_has_no_owner(tmp_path: Path, opened: Opener) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a")
    async with opened(tmp_path, account=ELSEWHERE) as journal:
        assert await todo(journal) == ["a"]
        assert not await journal.rotated(ELSEWHERE)
        await become(journal, "a", "intent")
    with pytest.raises(Unusable, match=r"belongs to the account at http://127\.0\.0\.1:8000"):
        async with opened(tmp_path):
            pytest.fail("it was opened")


async def test_a_changed_key_is_reported_until_it_is_accepted(tmp_path: Path, opened: Opener) -> None:
    rotated = replace(ACCOUNT, key="a-new-key-of-the-same-account")
    async with opened(tmp_path) as journal:
        assert not await journal.rotated(ACCOUNT)
        await become(journal, "a", "accepted")
        await journal.uploaded("sha", "https://cdn.example/1", 100.0)
    for _ in range(2):
        async with opened(tmp_path, account=rotated) as journal:
            assert await journal.rotated(rotated)
            assert await journal.upload_of("sha", 0.0)
    async with opened(tmp_path, account=rotated) as journal:
        await journal.accept_key(rotated, 5.0)
        assert not await journal.rotated(rotated)
    async with opened(tmp_path, account=rotated) as journal:
        assert not await journal.rotated(rotated)
        assert await journal.rotated(ACCOUNT)


async def test_a_second_journal_on_the_same_folder_is_refused(tmp_path: Path, opened: Opener) -> None:
    home = tmp_path / "clips" / ".wan_async"
    async with opened(home):
        with pytest.raises(Unusable, match="another process"):
            async with opened(home):
                pytest.fail("it was opened twice")


@pytest.mark.parametrize("state", ATTEMPT_STATES)
async def test_a_second_attempt_of_a_content_waits_until_the_first_is_answered(
    tmp_path: Path, opened: Opener, state: State
) -> None:
    async with opened(tmp_path) as journal:
        first = await become(journal, job("a", "same"), state)
        duplicate, other = attempt_at(job("b", "same"), number=0), attempt_at(job("c", "other"), number=0)
        before = await journal.money()
        if state in UNANSWERED:
            with pytest.raises(ContentLocked):
                await journal.intent(duplicate, cap=None)
            assert (duplicate.id, duplicate.state) == (0, "rejected")
            assert await journal.money() == before
        else:
            await journal.intent(duplicate, cap=None)
            assert (duplicate.number, duplicate.state) == (1, "intent")
        await journal.intent(other, cap=None)
    async with opened(tmp_path) as journal:
        if state in UNANSWERED:
            with pytest.raises(ContentLocked):
                await journal.intent(duplicate, cap=None)
            await journal.accepted(first, "9", "t", b"", 1.0, adopted=True)
            await journal.intent(duplicate, cap=None)


async def test_a_refused_attempt_is_not_sent_again_while_another_of_its_content_is_unanswered(
    tmp_path: Path, opened: Opener
) -> None:
    async with opened(tmp_path) as journal:
        refused = await become(journal, job("a", "same"), "rejected")
        duplicate = await become(journal, job("b", "same"), "quarantined")
        with pytest.raises(ContentLocked):
            await journal.intent(refused, cap=None)
        assert refused.state == "rejected"
        await journal.abandoned(duplicate)
        await journal.intent(refused, cap=None)
        assert refused.state == "intent"


async def test_one_of_many_concurrent_attempts_of_one_content_gets_the_lock(tmp_path: Path, opened: Opener) -> None:
    attempts = [attempt_at(job(f"j{number}", "same"), number=0) for number in range(20)]
    locked: list[Attempt] = []

    async def intend(journal: Journal, attempt: Attempt) -> None:
        try:
            await journal.intent(attempt, cap=None)
        except ContentLocked:
            locked.append(attempt)

    async with opened(tmp_path, inline=False) as journal, anyio.create_task_group() as group:
        for attempt in attempts:
            group.start_soon(intend, journal, attempt)
    assert len(locked) == 19
    assert [attempt.state for attempt in attempts if attempt not in locked] == ["intent"]


@pytest.mark.parametrize("state", ["unknown", "accepted"])
async def test_a_task_is_adopted_in_one_step_despite_an_open_attempt_of_its_content(
    tmp_path: Path, opened: Opener, state: str
) -> None:
    async with opened(tmp_path) as journal:
        first = await become(journal, job("a", "same"), state, task="1")
        await enroll(journal, ("b", "same"))
        await journal.job_failed("b", "refused", "no", sticky=True)
        adopted = attempt_at(job("b", "same"), number=0, reserved=7)
        with pytest.raises(TaskTaken):
            await journal.adopt(adopted, "1" if state == "accepted" else "2", first.token or "", b"", 5.0)
            await journal.adopt(attempt_at(job("c", "else"), number=0), "2", "t", b"", 5.0)
        assert adopted.id in (0, 2)
        if not adopted.id:
            await journal.adopt(adopted, "2", None, b"", 5.0)
        assert (adopted.state, adopted.number, adopted.task_id, adopted.adopted) == ("accepted", 1, "2", True)
        assert await journal.open_attempts() == [first, adopted]
        assert await journal.money() == Money(0, 67)
        assert await todo(journal) == []


async def test_a_fact_is_remembered_until_it_is_dropped(tmp_path: Path, opened: Opener) -> None:
    for holds in (True, False, True):
        async with opened(tmp_path) as journal:
            assert await journal.remembers("fact") is not holds
            await journal.remember("fact", holds=holds)
            assert (await journal.remembers("fact"), await journal.remembers("other")) == (holds, False)
