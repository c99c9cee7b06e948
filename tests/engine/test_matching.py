from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.domain.model import WAN
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine.matching import (
    INCOMPLETE_SECONDS,
    WINDOW_SECONDS,
    Absent,
    Adopt,
    Contents,
    Quarantine,
    Unanswered,
    Wait,
    differs,
    echo_of,
    is_candidate,
    judge,
    matches,
    pages_for,
    verbatim,
)
from wan_async.engine.task_listing import Owners, Pages, key_of, task_number

SETTLE = 30.0
INTENT_AT = 1_700_000_000.0
UPLOAD = "https://files.test/up/a.png"
VERBATIM = ("prompt", "negativePrompt", "resolution", "aspectRatio", "seed")
Verdict = Adopt | Absent | Quarantine | Wait


def form_of(prompt: str = "a cat", **fields: str) -> dict[str, str]:
    plain = {"inputImageUrl": "", "negativePrompt": "", "resolution": "480P", "aspectRatio": "Default", "seed": "42"}
    return plain | {"prompt": prompt} | fields


def task_of(task_id: object, parameters: object = None, *, at: float | None = INTENT_AT, token: str = "") -> TaskDetail:
    shape = {"id": task_id, "parameters": parameters or {}, "createtime": at, "socketaccesstoken": token}
    return TaskDetail.model_validate(shape)


def old_task(task_id: object = 100, at: float = INTENT_AT - 5000) -> TaskDetail:
    return task_of(task_id, form_of("an old prompt"), at=at)


def case_of(form: dict[str, str] | None = None, image: str = "", high_id: int = 100) -> Unanswered:
    return Unanswered(WAN, 1, form or form_of(), image, high_id, INTENT_AT, 0.0)


def contents_of(*known: tuple[dict[str, str], str]) -> Contents:
    contents = Contents(WAN)
    for form, image in known:
        contents.add(form, image)
    return contents


def owners_of(names: Collection[str]) -> Owners:
    """Owners of the tasks with these names: numbers are ids, others are tokens."""
    return Owners((name, None) if name.isdigit() else (None, name) for name in names)


def look(
    case: Unanswered,
    tasks: Collection[TaskDetail],
    now: float,
    *,
    complete: bool = True,
    owned: Collection[str] = (),
    echoed: Collection[str] = VERBATIM,
    contents: Contents | None = None,
) -> Verdict:
    known = contents_of((dict(case.form), case.image)) if contents is None else contents
    return judge(
        case, tasks, complete=complete, now=now, settle=SETTLE, owned=owners_of(owned), echoed=echoed, contents=known
    )


def judge_at(case: Unanswered, tasks: Collection[TaskDetail], now: float, owned: Owners) -> Verdict:
    known = contents_of((dict(case.form), case.image))
    return judge(case, tasks, complete=True, now=now, settle=SETTLE, owned=owned, echoed=VERBATIM, contents=known)


def drive(
    case: Unanswered,
    listed: Callable[[float], Collection[TaskDetail]],
    *,
    complete: bool = True,
    owned: Callable[[float], Collection[str]] = lambda now: (),
    echoed: Collection[str] = VERBATIM,
    contents: Contents | None = None,
) -> tuple[Verdict, float]:
    """Judge listings at the times that `Wait` names; return the verdict and its time."""
    now = 0.0
    for _ in range(5000):
        verdict = look(case, listed(now), now, complete=complete, owned=owned(now), echoed=echoed, contents=contents)
        if not isinstance(verdict, Wait):
            return verdict, now
        assert verdict.at >= now
        now = max(verdict.at, now + 0.5)
    raise AssertionError("no verdict")


def read(floor_id: int, pages: Sequence[Sequence[TaskDetail]], floor_time: float = INTENT_AT - 600) -> Pages:
    listing = Pages(floor_id, floor_time)
    for page in pages:
        listing.add(page)
    return listing


def descending(first: int, last: int, at: float = INTENT_AT) -> list[TaskDetail]:
    return [task_of(number, form_of("another prompt"), at=at) for number in range(first, last - 1, -1)]


def test_sequence_1_a_task_that_is_listed_late_is_adopted() -> None:
    own = task_of(101, form_of())
    verdict, at = drive(case_of(), lambda now: [own] if now >= SETTLE - 0.1 else [])
    assert isinstance(verdict, Adopt)
    assert at <= SETTLE
    verdict, at = drive(case_of(), lambda now: [own] if now >= 2 * SETTLE - 0.1 else [])
    assert verdict == Adopt(own)


def test_sequence_1_absence_takes_two_complete_listings_one_settle_time_apart() -> None:
    case = case_of()
    assert look(case, [], 0.0) == Wait(SETTLE)
    assert look(case, [], SETTLE - 0.01) == Wait(SETTLE)
    assert look(case, [], SETTLE + 5) == Wait(2 * SETTLE + 5)
    assert look(case, [], 2 * SETTLE) == Wait(2 * SETTLE + 5)
    assert look(case, [], 2 * SETTLE + 5) == Absent()


def test_sequence_2_a_gap_between_pages_restarts_the_listing() -> None:
    tasks = descending(120, 95, INTENT_AT - 5000)
    listing = Pages(100, INTENT_AT - 600)
    listing.add(tasks[:10])
    assert listing.start == 9
    listing.add(tasks[12:22])  # two were deleted, so that 109 is skipped
    assert (listing.start, listing.complete, listing.restarts) == (0, False, 1)
    for _ in range(10):
        listing.add(tasks[listing.start :][:10])
        if listing.complete:
            break
    assert listing.complete
    assert "109" in listing.tasks


def test_sequence_2_a_page_shorter_than_requested_only_moves_the_next_start() -> None:
    tasks = descending(130, 90, INTENT_AT - 5000)
    listing, pages = Pages(100, INTENT_AT - 600), 0
    while not listing.complete:
        listing.add(tasks[listing.start :][:7])
        pages += 1
    assert listing.restarts == 0
    assert {str(number) for number in range(101, 131)} <= set(listing.tasks)
    assert pages == 5


def test_sequence_3_a_listing_that_ends_above_the_window_is_not_complete() -> None:
    assert not read(100, [descending(120, 101)]).complete
    recent_by_time = read(100, [descending(120, 90)])
    assert not recent_by_time.complete, "ids are below, times are not"
    assert not read(100, [descending(120, 101, INTENT_AT - 5000)]).complete, "times are below, ids are not"
    assert read(100, [descending(120, 90, INTENT_AT - 5000)]).complete
    case = case_of()
    for now in (SETTLE, 2 * SETTLE, 3 * SETTLE):
        assert look(case, [], now, complete=False) == Wait(now + 1.0)


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_sequence_4_a_clock_skew_of_an_hour_hides_no_task(skew: float) -> None:
    own = task_of(101, form_of(), at=INTENT_AT + skew)
    assert is_candidate(case_of(), own)
    assert drive(case_of(), lambda now: [own]) == (Adopt(own), 0.0)
    listing = pages_for([case_of()])
    for _ in range(4):
        listing.add([own, *descending(100, 60, INTENT_AT - 5000 + skew)][listing.start :])
    assert "101" in listing.tasks
    assert listing.complete


def test_sequence_5_a_task_with_a_lower_id_is_a_candidate_by_its_creation_time() -> None:
    own = task_of(99, form_of(), at=INTENT_AT + 3)
    verdict, _ = drive(case_of(), lambda now: [own])
    assert isinstance(verdict, Quarantine)
    assert "99" in verdict.reason
    assert not is_candidate(case_of(), task_of(99, form_of(), at=INTENT_AT - WINDOW_SECONDS - 1))
    assert not is_candidate(case_of(), task_of(99, form_of(), at=None))


def test_sequence_6_a_task_owned_by_another_attempt_is_foreign() -> None:
    equal = task_of(101, form_of())
    verdict, at = drive(case_of(), lambda now: [equal], owned=lambda now: {"101"})
    assert (verdict, at) == (Absent(), 2 * SETTLE)


def test_sequence_7_two_attempts_of_equal_content_adopt_one_task_each() -> None:
    own, later = task_of(101, form_of()), task_of(102, form_of())
    first, second = case_of(), case_of(high_id=101)
    assert look(first, [own], 1.0) == Adopt(own)
    assert look(second, [own, later], 1.0, owned={"101"}) == Adopt(later)


def test_sequence_8_a_task_without_echo_is_quarantined() -> None:
    verdict, at = drive(case_of(), lambda now: [task_of(101, {})])
    assert isinstance(verdict, Quarantine)
    assert at == 2 * SETTLE


@pytest.mark.parametrize(
    "shows",
    [
        {"seed": "42", "resolution": "480P"},
        {"prompt": "a cat", "seed": "43"},
        {"prompt": "a cat", "inputImage": "https://files.test/x.png"},
        {"prompt": "a cat", "negativePrompt": "blur"},
    ],
)
def test_sequence_8_a_partly_equal_task_does_not_match(shows: dict[str, str]) -> None:
    assert not matches(case_of(), task_of(101, shows), Contents(WAN))
    verdict, _ = drive(case_of(), lambda now: [task_of(101, shows)], echoed=())
    assert isinstance(verdict, Quarantine)


def test_sequence_8_a_job_with_an_image_is_not_matched_by_a_task_without_one() -> None:
    case = case_of(form_of(inputImageUrl=UPLOAD), "sha256:a")
    assert not matches(case, task_of(101, form_of()), Contents(WAN))
    assert matches(case, task_of(101, form_of(inputImageUrl=UPLOAD)), Contents(WAN))


def test_sequence_9_a_field_that_the_service_rewrites_proves_no_difference() -> None:
    case = case_of(form_of(inputImageUrl=UPLOAD), "sha256:a")
    own = task_of(101, form_of(inputImageUrl="https://cdn.test/other.png"))
    contents = contents_of((dict(case.form), "sha256:a"), (form_of(), "sha256:b"))
    verdict, _ = drive(case, lambda now: [own], contents=contents)
    assert isinstance(verdict, Quarantine)
    learned = (*VERBATIM, echo_of(WAN, "inputImageUrl", UPLOAD))
    verdict, _ = drive(case_of(dict(case.form), "sha256:a"), lambda now: [own], echoed=learned, contents=contents)
    assert verdict == Absent(), "URLs of this host are echoed verbatim, so a different one is a difference"


def test_sequence_9_an_own_task_shows_which_fields_are_echoed_verbatim() -> None:
    form = form_of(inputImageUrl=UPLOAD, negativePrompt="blur")
    shows = {"prompt": "a cat", "seed": 42, "resolution": "480p", "negativePrompt": "", "inputImageUrl": UPLOAD}
    assert verbatim(WAN, form, task_of(1, shows)) == {
        "prompt": True,
        "seed": True,
        "resolution": False,
        "negativePrompt": False,
        "inputImageUrl@files.test": True,
    }
    assert verbatim(WAN, form_of(), task_of(1, {"negativePrompt": "", "inputImageUrl": ""})) == {}
    assert verbatim(WAN, form, task_of(1, {})) == {}


def test_sequence_10_jobs_that_differ_only_in_hidden_fields_are_quarantined() -> None:
    case = case_of(image="sha256:a")
    contents = contents_of((form_of(), "sha256:a"), (form_of(), "sha256:b"))
    inline = task_of(101, form_of() | {"inputImage": "https://cdn.test/101.png"})
    verdict, _ = drive(case, lambda now: [inline], contents=contents)
    assert isinstance(verdict, Quarantine)
    prompt_only = task_of(102, {"prompt": "a cat"})
    contents = contents_of((form_of(), ""), (form_of(seed="43"), ""))
    assert isinstance(drive(case_of(), lambda now: [prompt_only], contents=contents)[0], Quarantine)


def test_sequence_10_a_job_with_an_inline_image_and_a_unique_prompt_is_adopted() -> None:
    case = case_of(image="sha256:a")
    contents = contents_of((form_of(), "sha256:a"), (form_of("a dog"), "sha256:b"))
    inline = task_of(101, form_of() | {"inputImage": "https://cdn.test/101.png"})
    assert drive(case, lambda now: [inline], contents=contents) == (Adopt(inline), SETTLE)


def test_sequence_11_each_listing_is_judged_with_the_owners_at_its_time() -> None:
    other = task_of(101, {})
    case = case_of()
    assert look(case, [], SETTLE) == Wait(2 * SETTLE)
    assert case.clear_since == SETTLE
    assert look(case, [other], SETTLE + 10) == Wait(2 * SETTLE)
    assert case.clear_since is None, "a listing with a possible match restarts the proof"
    assert look(case, [other], SETTLE + 20, owned={"101"}) == Wait(2 * SETTLE + 20)
    assert look(case, [other], 2 * SETTLE + 20, owned={"101"}) == Absent()


def test_sequence_12_after_a_restart_absence_is_proven_from_the_start() -> None:
    before = case_of()
    look(before, [], SETTLE)
    again = replace(case_of(), closed_at=1000.0)
    assert look(again, [], 1000.0) == Wait(1000.0 + SETTLE)
    assert look(again, [], 1000.0 + SETTLE) == Wait(1000.0 + 2 * SETTLE)
    assert look(again, [], 1000.0 + 2 * SETTLE) == Absent()


def test_sequence_13_a_page_of_known_tasks_does_not_end_the_listing() -> None:
    a, b, c = descending(103, 101)
    listing = read(0, [[a, b]])
    listing.add([a, b])  # a task was added at the top: start 1 lists what start 0 did
    assert (listing.complete, listing.start) == (False, 2), "the next one overlaps it"
    listing.add([b, c])
    assert not listing.complete
    assert "101" in listing.tasks
    listing.add([c])
    listing.add([])
    assert listing.complete


def test_sequence_14_an_empty_page_after_deletions_does_not_end_the_listing() -> None:
    a, b, c, d = descending(104, 101)
    listing = read(0, [[a, b, c]])
    listing.add([])  # three were deleted, so that d moved up
    assert (listing.complete, listing.start) == (False, 0)
    listing.add([d])
    listing.add([d])
    listing.add([])
    assert listing.complete
    assert "101" in listing.tasks


def test_sequence_14_an_empty_page_after_a_page_of_known_tasks_restarts_the_listing() -> None:
    a, b, _ = descending(103, 101)
    listing = read(0, [[a, b], [a, b]])
    listing.add([])  # two more were deleted: the third is the first now
    assert not listing.complete
    assert listing.start == 0


def test_sequence_14_tasks_listed_before_a_restart_are_kept() -> None:
    listing = read(0, [[task_of(103), task_of(102)], [task_of(90)]])
    assert listing.restarts == 1
    assert {"103", "102"} <= set(listing.tasks)


def test_sequence_15_an_empty_list_is_complete_only_if_no_task_was_known() -> None:
    assert not read(100, [[], []]).complete
    assert read(0, [[]]).complete


def test_sequence_16_old_tasks_listed_first_do_not_end_a_listing() -> None:
    assert not read(100, [[old_task(50), task_of(103), task_of(102)]]).complete
    assert not read(100, [[task_of(103), old_task(50), old_task(60)]]).complete
    ascending = list(reversed(descending(130, 90, INTENT_AT - 5000)))
    listing = Pages(100, INTENT_AT - 600)
    for _ in range(40):
        listing.add(ascending[listing.start :][:5])
        if listing.complete:
            break
    assert listing.complete
    assert len(listing.tasks) == len(ascending), "read to its end"


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ({"prompt": "cats & dogs"}, {"prompt": "cats &amp; dogs"}),
        ({"prompt": " a  cat "}, {"prompt": "a cat"}),
        ({"prompt": "a cat \N{GRINNING FACE}"}, {"prompt": "a cat ????"}),
        ({"prompt": "cafe\N{COMBINING ACUTE ACCENT}"}, {"prompt": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}),
        ({"prompt": "a long prompt that is cut somewhere"}, {"prompt": "a long prompt that is c..."}),
        ({"prompt": "a rather long prompt & more of it"}, {"prompt": "a rather long prompt &am"}),
        ({"prompt": "a cat"}, {"prompt": ""}),
        ({"prompt": "a cat"}, {"prompt": None}),
        ({"prompt": "a cat"}, {"prompt": ["a dog"]}),
        ({"seed": "42"}, {"seed": 42}),
        ({"seed": "42"}, {"seed": 42.0}),
        ({"seed": "12345678901234567890"}, {"seed": 1.2345678901234567e19}),
        ({"resolution": "480P"}, {"resolution": "480p"}),
        ({"negativePrompt": ""}, {"negativePrompt": "the service's own default"}),
    ],
)
def test_sequence_17_a_reformatted_value_does_not_make_a_task_foreign(
    sent: dict[str, str], seen: dict[str, object]
) -> None:
    own = task_of(101, form_of() | sent | seen)
    assert not differs(WAN, form_of() | sent, own, VERBATIM)
    verdict, _ = drive(case_of(form_of() | sent), lambda now: [own])
    assert not isinstance(verdict, Absent)


@pytest.mark.parametrize(
    "seen", [{"prompt": "a dog"}, {"seed": 43}, {"resolution": "720P"}, {"aspectRatio": "16:9"}, {"seed": "043a"}]
)
def test_a_different_value_makes_a_task_foreign(seen: dict[str, object]) -> None:
    assert differs(WAN, form_of(), task_of(101, form_of() | seen), VERBATIM)
    assert drive(case_of(), lambda now: [task_of(101, form_of() | seen)]) == (Absent(), 2 * SETTLE)


def test_sequence_17_echoes_of_image_urls_are_learned_per_host() -> None:
    taught = verbatim(
        WAN, form_of(inputImageUrl="https://user.test/x.png"), task_of(1, {"inputImageUrl": "https://user.test/x.png"})
    )
    echoed = [name for name, same in taught.items() if same]
    own = task_of(101, form_of(inputImageUrl="https://cdn.test/9.png"))
    assert not differs(WAN, form_of(inputImageUrl=UPLOAD), own, echoed)
    assert differs(WAN, form_of(inputImageUrl="https://user.test/y.png"), own, echoed)
    assert echo_of(WAN, "inputImageUrl", "http://[") == "inputImageUrl"


def test_sequence_18_an_empty_image_field_does_not_identify_the_job_without_an_image() -> None:
    contents = contents_of((form_of(), ""), (form_of(), "sha256:a"))
    hidden = task_of(101, form_of())  # the other job's, whose image the service doesn't show
    assert isinstance(drive(case_of(), lambda now: [hidden], contents=contents)[0], Quarantine)


def test_sequence_18_an_empty_negative_prompt_does_not_identify_the_job_without_one() -> None:
    contents = contents_of((form_of(), ""), (form_of(negativePrompt="blur"), ""))
    assert isinstance(drive(case_of(), lambda now: [task_of(101, form_of())], contents=contents)[0], Quarantine)


def test_sequence_19_a_task_with_another_image_is_not_adopted_before_the_settle_time() -> None:
    case = case_of(form_of(inputImageUrl=UPLOAD), "sha256:a")
    other = task_of(101, form_of(inputImageUrl="https://files.test/up/other.png"))
    own = task_of(102, form_of(inputImageUrl=UPLOAD))
    assert drive(case, lambda now: [other] if now < SETTLE else [own, other]) == (Adopt(own), SETTLE)


def test_sequence_19_two_tasks_with_rewritten_images_are_quarantined() -> None:
    case = case_of(image="sha256:a")
    both = [task_of(number, form_of() | {"inputImage": f"https://cdn.test/{number}.png"}) for number in (101, 102)]
    assert isinstance(drive(case, lambda now: both)[0], Quarantine)


def test_sequence_20_a_possible_match_counts_even_if_later_listings_lack_it() -> None:
    verdict, _ = drive(case_of(), lambda now: [task_of(101, {})] if now < SETTLE else [])
    assert isinstance(verdict, Quarantine)
    case = case_of()
    look(case, [task_of(101, {})], 1.0)
    assert look(case, [task_of(101, form_of("a dog"))], SETTLE) == Wait(2 * SETTLE), "now it shows a difference"
    assert look(case, [], 2 * SETTLE) == Absent()


def test_sequence_21_a_task_without_an_id_is_a_candidate_but_never_adopted() -> None:
    nameless = task_of(None, form_of(), token="t")
    assert key_of(nameless) == "t"
    listing = read(0, [[nameless], [nameless], []])
    assert listing.complete
    verdict, _ = drive(case_of(), lambda now: list(listing.tasks.values()))
    assert isinstance(verdict, Quarantine)


def test_sequence_22_a_task_whose_id_is_not_a_number_is_adopted_only_by_its_creation_time() -> None:
    week_old = task_of("b7c1", form_of(), at=INTENT_AT - 600_000)
    fresh = task_of("a9f3", form_of(), at=INTENT_AT + 2)
    assert isinstance(drive(case_of(), lambda now: [week_old])[0], Quarantine)
    assert drive(case_of(high_id=0), lambda now: [fresh, week_old])[0] == Adopt(fresh)


def test_sequence_23_a_task_with_a_known_token_is_owned() -> None:
    equal = task_of(101, form_of(), token="secret")
    assert drive(case_of(), lambda now: [equal], owned=lambda now: {"secret"})[0] == Absent()


def test_sequence_28_restarted_ids_lead_to_neither_adoption_nor_absence() -> None:
    own, older = task_of(101, form_of(), token="token-b"), task_of(101, form_of("a dog"), token="token-a")
    owned = Owners([("101", "token-a")])
    listing = read(0, [[own, older], [older]])
    assert len(listing.tasks) == 2
    case = case_of()
    assert isinstance(judge_at(case, listing.tasks.values(), SETTLE, owned), Wait)
    assert isinstance(judge_at(case, listing.tasks.values(), 2 * SETTLE, owned), Quarantine)
    masked = task_of(101, form_of(), token="*******")
    assert owned.owns(older)
    assert not owned.owns(own)
    assert owned.owns(masked)


def test_sequence_24_incomplete_listings_end_in_quarantine() -> None:
    verdict, at = drive(case_of(), lambda now: [], complete=False)
    assert isinstance(verdict, Quarantine)
    assert at == SETTLE + INCOMPLETE_SECONDS
    one_a_page = descending(110, 101)
    listing = Pages(0, 0.0)
    for _ in range(100):
        listing.add(one_a_page[listing.start :][:1])
    assert not listing.complete


def test_one_complete_listing_resets_the_time_of_incomplete_ones() -> None:
    case = case_of()
    look(case, [], SETTLE, complete=False)
    assert case.incomplete_since == SETTLE
    look(case, [], SETTLE + 1, complete=True)
    assert case.incomplete_since is None


def test_two_unanswered_attempts_adopt_their_own_tasks() -> None:
    cat, dog = case_of(), case_of(form_of("a dog"))
    contents = contents_of((form_of(), ""), (form_of("a dog"), ""))
    tasks = [task_of(102, form_of()), task_of(101, form_of("a dog"))]
    assert look(cat, tasks, 1.0, contents=contents, echoed=()) == Adopt(tasks[0])
    assert look(dog, tasks, 1.0, contents=contents, echoed=(), owned={"102"}) == Adopt(tasks[1])


def test_the_first_task_after_the_intent_is_adopted_among_equal_ones() -> None:
    same_second = [task_of(number, form_of()) for number in (1000, 999, 101)]
    assert look(case_of(), same_second, 1.0) == Adopt(same_second[2])
    assert look(case_of(), [task_of(99, form_of(), at=INTENT_AT - 5000), same_second[0]], 1.0) == Adopt(same_second[0])


def test_a_task_of_another_program_with_the_same_batch_is_foreign() -> None:
    case = case_of(form_of(inputImageUrl=UPLOAD), "sha256:a")
    theirs = task_of(101, form_of(inputImageUrl="https://files.test/up/theirs.png"))
    learned = (*VERBATIM, echo_of(WAN, "inputImageUrl", UPLOAD))
    assert drive(case, lambda now: [theirs], echoed=learned) == (Absent(), 2 * SETTLE)


def test_parameters_in_a_json_string_are_parsed() -> None:
    own = task_of(101, '{"prompt": "a cat", "seed": 42, "resolution": "480P", "aspectRatio": "Default"}')
    assert look(case_of(), [own], 0.0) == Adopt(own)


@pytest.mark.parametrize("task_id", ["", "x1", "-5", "²", "٣", "9" * 5000, "1.0"])
def test_an_id_that_is_not_a_number_sorts_last(task_id: str) -> None:
    assert task_number(task_id) == 1 << 62


def test_an_id_that_is_a_number_sorts_as_one() -> None:
    assert task_number("534574") == 534574


def test_contents_counts_those_that_are_equal_in_every_echoed_field() -> None:
    contents = contents_of((form_of(), "a"), (form_of(), "a"), (form_of(), "b"), (form_of(seed="7"), "a"))
    assert contents.alike(form_of(), "a", VERBATIM, image_shown=False) == 2
    assert contents.alike(form_of(), "a", VERBATIM, image_shown=True) == 1
    assert contents.alike(form_of(), "a", ["prompt"], image_shown=False) == 3
    assert contents.alike(form_of(), "a", ["prompt"], image_shown=True) == 2
    assert contents.alike(form_of(), "c", VERBATIM, image_shown=True) == 0
    contents.add(form_of("a dog"), "")
    assert contents.alike(form_of("a dog"), "", ["prompt"], image_shown=False) == 1


def test_a_listing_reaches_below_the_oldest_attempt() -> None:
    listing = pages_for([case_of(high_id=50), replace(case_of(high_id=70), intent_at=INTENT_AT - 100)])
    assert (listing.floor_id, listing.floor_time) == (50, INTENT_AT - 100 - WINDOW_SECONDS)


@dataclass
class Remote:
    """A task of the service: the number of its content, and the time from which it is listed."""

    number: int
    content: int
    created: float
    listed_at: float
    ours: bool = False
    url: str = ""


TEXTS = ("a cat", "a cat", "cats & dogs in the long, long rain", "a cat", "a bird")
IMAGES = ("sha256:a", "sha256:b", "sha256:c", "", "")


@dataclass
class Service:
    """Creates tasks, lists them late, and changes the list between two pages."""

    rng: random.Random
    echo: str
    cap: int
    busy: float
    deleting: float
    inline: bool
    skew: float
    tasks: list[Remote] = field(default_factory=list)
    last: int = 100
    now: float = 0.0

    def run(self, content: int, at: float, *, ours: bool = False) -> Remote:
        self.last += self.rng.randint(1, 3)
        image = IMAGES[content]
        url = f"https://files.test/up/{'ours' if ours else 'theirs'}-{image}.png" if image and not self.inline else ""
        self.tasks.append(Remote(self.last, content, at, at + self.rng.uniform(0.0, SETTLE * 0.99), ours, url))
        return self.tasks[-1]

    def form(self, remote: Remote) -> dict[str, str]:
        return form_of(TEXTS[remote.content], inputImageUrl=remote.url)

    def show(self, remote: Remote) -> TaskDetail:
        shows: dict[str, object] = dict(self.form(remote))
        has_image = bool(IMAGES[remote.content])
        match self.echo:
            case "empty":
                shows = {}
            case "late" if self.now < remote.created + 20:
                shows = dict.fromkeys(shows, "") if remote.number % 2 else {}
            case "numbers":
                shows["seed"] = 42
            case "prompt":
                shows = {"prompt": shows["prompt"]}
            case "hidden":
                shows["inputImageUrl"] = ""
            case "escaped":
                shows["prompt"] = str(shows["prompt"]).replace("&", "&amp;")[:28]
            case "rewritten" if has_image:
                del shows["inputImageUrl"]
                shows["inputImage"] = f"https://cdn.test/{remote.number}.png"
        if self.inline and has_image and self.echo in ("faithful", "numbers", "escaped"):
            shows["inputImage"] = f"https://cdn.test/{remote.number}.png"
        return task_of(remote.number, shows, at=INTENT_AT + remote.created + self.skew, token=f"t{remote.number}")

    def page(self, start: int) -> list[TaskDetail]:
        self.now += 0.1
        while self.rng.random() < self.busy:
            self.run(self.rng.randrange(len(TEXTS)), self.now)
            if self.rng.random() < 0.3:
                self.tasks[-1].listed_at = self.now
        if self.rng.random() < self.deleting:
            others = [task for task in self.tasks if not task.ours]
            for task in self.rng.sample(others, min(len(others), self.rng.randint(1, 5))):
                self.tasks.remove(task)
        listed = [task for task in reversed(self.tasks) if task.listed_at <= self.now]
        return [self.show(task) for task in listed[start : start + self.cap]]


@given(
    seed=st.integers(0, 2**32),
    content=st.integers(0, len(TEXTS) - 1),
    made=st.booleans(),
    echo=st.sampled_from(["faithful", "empty", "late", "numbers", "prompt", "hidden", "escaped", "rewritten"]),
    cap=st.integers(2, 40),
    busy=st.sampled_from([0.0, 0.2, 0.6]),
    deleting=st.sampled_from([0.0, 0.1]),
    before=st.sampled_from([0, 1, 30]),
    inline=st.booleans(),
    learned=st.booleans(),
    skew=st.sampled_from([-3600.0, 0.0, 3600.0]),
)
def test_no_behaviour_of_the_service_leads_to_a_wrong_verdict(
    seed: int,
    content: int,
    made: bool,
    echo: str,
    cap: int,
    busy: float,
    deleting: float,
    before: int,
    inline: bool,
    learned: bool,
    skew: float,
) -> None:
    service = Service(random.Random(seed), echo, cap, busy, deleting, inline, skew)
    contents = Contents(WAN)
    for index, image in enumerate(IMAGES):
        contents.add(form_of(TEXTS[index]), image)
    for index in range(before):
        service.run(service.rng.randrange(len(TEXTS)), -10_000.0 + index)  # outside of the window at any skew
    owned = {str(task.number) for task in service.tasks if service.rng.random() < 0.7}
    high_id = service.last if before else 0
    service.last = max(service.last, high_id)
    own = service.run(content, service.rng.uniform(-1.0, 0.0), ours=True)
    form = service.form(own)
    if not made:
        service.tasks.remove(own)
    echoed: list[str] = []
    if learned and echo != "empty":
        echoed = ["prompt"] if echo == "prompt" else list(VERBATIM)
        if form["inputImageUrl"] and echo in ("faithful", "numbers", "late", "escaped"):
            echoed.append(echo_of(WAN, "inputImageUrl", form["inputImageUrl"]))
    case = Unanswered(WAN, 1, form, IMAGES[content], high_id, INTENT_AT, 0.0)
    verdict: Verdict = Wait(0.5)
    while isinstance(verdict, Wait):
        service.now = max(service.now + 0.5, verdict.at)
        began, listing = service.now, pages_for([case])
        for _ in range(60):
            listing.add(service.page(listing.start))
            if listing.complete:
                break
        verdict = judge(
            case,
            listing.tasks.values(),
            complete=listing.complete,
            now=began,
            settle=SETTLE,
            owned=owners_of(owned),
            echoed=echoed,
            contents=contents,
        )
    if isinstance(verdict, Absent):
        assert not made
    if isinstance(verdict, Adopt):
        adopted = verdict.task
        remote = next((task for task in service.tasks if str(task.number) == adopted.id), None)
        assert adopted.id not in owned
        assert remote is None or remote.content == content
    if echo == "faithful" and learned and not busy and not deleting and (not inline or not IMAGES[content]):
        only = sum(text == TEXTS[content] for text in TEXTS) == 1 or bool(IMAGES[content])
        if only:
            assert isinstance(verdict, Adopt if made else Absent), "nothing is ambiguous"


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=60, unique=True).map(lambda ids: sorted(ids, reverse=True)),
    st.integers(2, 10),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=20),
)
def test_a_complete_listing_has_every_task_that_existed_throughout(
    ids: list[int], cap: int, changes: list[tuple[int, int]]
) -> None:
    there, started = list(ids), set(ids)
    gone: set[int] = set()
    listing, newest, moves = Pages(0, 0.0), 60, iter(changes)
    for _ in range(500):
        listing.add([task_of(number) for number in there[listing.start :][:cap]])
        arrived, deleted = next(moves, (0, 0))
        there[:0] = range(newest + arrived, newest, -1)
        newest += arrived
        gone |= set(there[:deleted])
        del there[:deleted]
        if listing.complete:
            break
    assert listing.complete
    assert {str(number) for number in started - gone} <= set(listing.tasks)
