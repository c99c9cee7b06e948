"""The sandbox's faults: drawn from the seed and the number of starts, or scripted."""

from __future__ import annotations

import pytest

from wan_async.sandbox.faults import FAULTS, TRANSIENT, Faults, check_fault
from wan_async.sandbox.settings import Settings


def drawn(seed: int, start: int) -> list[bool]:
    faults = Faults({"http_500": 0.5}, seed, start)
    return [faults.meets("http_500", "Run") for _ in range(64)]


def test_each_start_draws_other_faults_from_the_same_seed() -> None:
    met = [tuple(drawn(seed, start)) for seed in range(3) for start in range(4)]
    assert len(set(met)) == len(met)
    assert drawn(1, 2) == drawn(1, 2)


def test_faults_happen_about_as_often_as_their_probability() -> None:
    faults = Faults({"drop_before": 0.05})
    assert 350 < sum(faults.meets("drop_before", "Run") for _ in range(10_000)) < 650


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_happens_never_by_default_and_always_with_probability_1(name: str) -> None:
    endpoint = FAULTS[name].endpoints[0]
    assert not any(Faults().meets(name, endpoint) for _ in range(100))
    assert all(Faults({name: 1.0}).meets(name, endpoint) for _ in range(100))
    assert all(Faults({f"{name}@{endpoint}": 1.0}).meets(name, endpoint) for _ in range(100))
    assert FAULTS[name].effect


@pytest.mark.parametrize("name", ["explode", "vanish@Run", "failed_render@cdn", "drop_before@run", "cut_download@Run"])
def test_an_unknown_fault_or_an_endpoint_that_cannot_meet_it_is_refused(name: str) -> None:
    fault, _, endpoint = name.partition("@")
    for act in (lambda: check_fault(name), lambda: Faults({name: 1.0}), lambda: Faults().next(fault, endpoint or None)):
        with pytest.raises(ValueError, match=fault):
            act()


def test_scripted_faults_come_first_and_draw_nothing() -> None:
    plain, scripted = Faults({"http_500": 0.5}), Faults({"http_500": 0.5})
    scripted.next("http_500", times=3)
    assert [scripted.meets("http_500", "Run") for _ in range(3)] == [True] * 3
    assert [scripted.meets("http_500", "Run") for _ in range(20)] == [plain.meets("http_500", "Run") for _ in range(20)]


def test_scripted_faults_apply_to_their_endpoint_as_often_as_requested() -> None:
    faults = Faults()
    faults.next("drop_after", "Run", times=2)
    faults.next("drop_before")
    assert not faults.meets("drop_after", "Task/List")
    assert [faults.meets("drop_after", "Run") for _ in range(3)] == [True, True, False]
    assert [faults.meets("drop_before", "Task/List") for _ in range(2)] == [True, False]


def test_a_probability_of_one_endpoint_overrides_the_general_one() -> None:
    faults = Faults({"http_500@Run": 1.0, "http_429": 1.0, "http_429@Run": 0.0})
    met = [(name, endpoint) for name in ("http_500", "http_429") for endpoint in ("Run", "Task/List")
           if faults.meets(name, endpoint)]  # fmt: skip
    assert met == [("http_500", "Run"), ("http_429", "Task/List")]


@pytest.mark.parametrize("field", [fault.duration for fault in FAULTS.values() if fault.duration])
def test_the_duration_of_a_fault_is_a_setting(field: str) -> None:
    assert getattr(Settings(), field) > 0


def test_every_fault_but_a_stuck_task_is_transient() -> None:
    assert set(FAULTS) - set(TRANSIENT) == {"task_error_stuck"}
