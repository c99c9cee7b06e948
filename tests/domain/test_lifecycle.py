from __future__ import annotations

import subprocess
import sys

import pytest

from wan_async.domain.lifecycle import (
    ATTEMPT_STATES,
    FINAL,
    IN_FLIGHT,
    JOB_STATES,
    LIFECYCLE,
    OPEN,
    PREVIOUS_STATES,
    PROBLEMS,
    RECOVERABLE,
    REPEATABLE,
    UNANSWERED,
    UNCLEAR,
    UNFINISHED,
    State,
)

DESIGN_4 = """
planned -> intent
intent -> accepted, rejected, unknown
accepted -> ended, missing
ended -> stored, failed, cancelled, missing
missing -> accepted, ended, given_up
unknown -> accepted, absent, quarantined
quarantined -> accepted, abandoned
"""
"""The diagram of DESIGN 4. Its `missing -> stored` goes through `ended`: the end is recorded before the clip."""

FURTHER = """
planned -> accepted
rejected -> intent
quarantined -> absent
stored -> ended
planned -> stored
stored -> rejected
cancelled -> ended
"""
"""What the text of DESIGN adds: `--adopt` makes an existing task an attempt; a refused Run is sent again in its own
row; a later start proves the absence of a quarantined one; a clip whose file is gone is fetched again; a clip is
shared with a job of equal content, and forgotten if that file is gone; outputs of a cancelled task may appear late."""

AGAIN = {State.UNKNOWN, State.QUARANTINED, State.ACCEPTED, State.ENDED, State.MISSING}
"""States whose facts may be recorded again: a later answer, a reason, a cost."""


def arrows(text: str) -> set[tuple[State, State]]:
    found = set()
    for line in text.strip().splitlines():
        before, _, after = line.partition(" -> ")
        found |= {(State(before), State(becomes)) for becomes in after.split(", ")}
    return found


def successors(state: State) -> set[State]:
    return {becomes for becomes, before in PREVIOUS_STATES.items() if state in before}


def test_every_state_has_one_row_and_a_sentence() -> None:
    assert set(LIFECYCLE) == set(State)
    for state, phase in LIFECYCLE.items():
        assert state == state.name.lower()
        assert phase.meaning.endswith(".")
    assert len({phase.meaning for phase in LIFECYCLE.values()}) == len(State)


def test_the_transitions_are_those_of_the_design() -> None:
    table = {(before, becomes) for becomes, phase in LIFECYCLE.items() for before in phase.after}
    again = {(state, state) for state in AGAIN}
    assert table == arrows(DESIGN_4) | arrows(FURTHER) | again


def test_every_state_can_be_reached_and_every_open_one_can_end() -> None:
    reached = {State.PLANNED}
    for _ in State:
        reached |= {becomes for state in reached for becomes in successors(state)}
    assert reached == set(State)
    for state in OPEN:
        ends = {state}
        for _ in State:
            ends |= {becomes for each in ends for becomes in successors(each)}
        assert State.STORED in ends, state


def test_a_final_state_has_no_successor_but_those_of_the_design() -> None:
    successors_of = {state: successors(state) for state in FINAL if successors(state)}
    assert successors_of == {
        State.REJECTED: {State.INTENT},
        State.STORED: {State.ENDED, State.REJECTED},
        State.CANCELLED: {State.ENDED},
    }


def test_an_attempt_is_either_open_or_final() -> None:
    assert set(OPEN) | set(FINAL) == set(ATTEMPT_STATES)
    assert not set(OPEN) & set(FINAL)
    assert set(ATTEMPT_STATES) == set(State) - {State.PLANNED}


@pytest.mark.parametrize("state", OPEN)
def test_a_job_with_an_open_attempt_is_never_submitted_by_default(state: State) -> None:
    assert state in RECOVERABLE
    assert state not in REPEATABLE


def test_states_that_may_still_cost_something_keep_their_reservation() -> None:
    paid = {State.ENDED, State.STORED, State.FAILED, State.CANCELLED}  # their cost is settled
    nothing = {State.PLANNED, State.REJECTED, State.ABSENT}  # no task exists
    assert {state for state, phase in LIFECYCLE.items() if phase.keeps_reservation} == set(State) - paid - nothing


def test_unanswered_are_the_states_between_intent_and_accepted() -> None:
    between: set[State] = {State.INTENT}
    for _ in State:
        between |= {
            becomes
            for state in between
            for becomes in successors(state)
            if becomes in OPEN and becomes is not State.ACCEPTED
        }
    assert set(UNANSWERED) == between
    assert set(UNCLEAR) == between - {State.INTENT}


def test_each_job_is_counted_once() -> None:
    groups = [{State.STORED}, set(UNFINISHED), {State.UNKNOWN}, set(PROBLEMS)]
    assert set().union(*groups) == set(JOB_STATES)
    assert sum(map(len, groups)) == len(JOB_STATES)
    assert set(UNFINISHED) == {State.PLANNED, *IN_FLIGHT}


WITH_NEW_STATES = """
import sys
from collections import Counter
from importlib.util import find_spec, module_from_spec

MEMBERS = '''
    PUT_OFF = "put_off"
    WITHDRAWN = "withdrawn"
'''
ROWS = '''
    State.PUT_OFF: Phase(meaning="It was put off.", after=(State.ACCEPTED,), is_open=True),
    State.WITHDRAWN: Phase(meaning="It was withdrawn.", after=(State.ACCEPTED,), is_problem=True),
'''
spec = find_spec("wan_async.domain.lifecycle")
source = spec.loader.get_data(spec.origin).decode()
for line, more in (('    GIVEN_UP = "given_up"', MEMBERS), ("LIFECYCLE: dict[State, Phase] = {", ROWS)):
    assert source.count(line) == 1
    source = source.replace(line, line + more)
sys.modules[spec.name] = module = module_from_spec(spec)
exec(source, module.__dict__)

from wan_async.cli.display_text import STYLES
from wan_async.cli.statistics import Statistics
from wan_async.domain.attempt import Money
from wan_async.engine.options import Options
from wan_async.engine.run_summary import finished
from wan_async.gallery.page_data import GROUPS, group_of
from wan_async.journal.tables import IS_OPEN

assert "put_off" in IS_OPEN and "withdrawn" not in IS_OPEN
assert set(GROUPS) >= {group_of("put_off"), group_of("withdrawn")}
assert "withdrawn" in Statistics().counts and "withdrawn" in STYLES
counts = Counter(put_off=2, withdrawn=3, stored=1)
end = finished("r", lambda: 1.0, 0.0, counts, Counter(), Money(0, 0), 0, 0, [], (), Options(resume="again"))
assert (end.exit_code, end.jobs, end.stored, end.unfinished, end.failed, end.resume) == (1, 6, 1, 2, 3, "again")
"""


def test_a_state_that_is_added_to_the_table_alone_is_counted_and_described_everywhere() -> None:
    subprocess.run([sys.executable, "-c", WITH_NEW_STATES], check=True)
