"""The exception tree and the attributes of each error."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from wan_async import errors

TREE: dict[str, str] = {
    "JobFailed": "WanError",
    "NotFound": "JobFailed",
    "NoSuchAddress": "NotFound",
    "Missing": "JobFailed",
    "UploadRefused": "JobFailed",
    "TryLater": "WanError",
    "AtLimit": "WanError",
    "OutOfFunds": "WanError",
    "StopBatch": "WanError",
    "Ambiguous": "WanError",
    "InvalidBatch": "WanError",
    "Unusable": "WanError",
    "Closed": "WanError",
    "TimedOut": "WanError",
    "BatchFailed": "WanError",
    "Locked": "Unusable",
    "LeaseLost": "Unusable",
}


def test_the_tree_is_as_designed() -> None:
    found = {
        name: kind.__mro__[1].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.WanError) and kind is not errors.WanError
    }
    assert found == TREE
    assert errors.WanError.__mro__[1] is Exception


def test_the_docstring_draws_every_error_once() -> None:
    drawing = errors.__doc__ or ""
    for name in TREE:
        assert drawing.count(f"── {name} ") == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.WanError("broke"), "broke"),
        (errors.WanError("broke", job="koala"), "broke [job koala]"),
        (errors.WanError("broke", task_id="2221"), "broke [task 2221]"),
        (errors.WanError("broke", job="koala", task_id="2221"), "broke [job koala, task 2221]"),
        (errors.JobFailed("broke", job="koala", task_id="2221"), "broke [job koala, task 2221]"),
        (errors.NotFound("gone", task_id="2221"), "gone [task 2221]"),
        (errors.Missing("gone", job="koala"), "gone [job koala]"),
        (errors.TryLater("soon", job="koala", task_id="1"), "soon [job koala, task 1]"),
        (errors.Ambiguous("no answer", job="koala"), "no answer [job koala]"),
        (errors.StopBatch("no"), "no"),
    ],
)
def test_an_error_names_its_job_and_its_task(error: errors.WanError, text: str) -> None:
    assert str(error) == text
    assert error.message == text.split(" [")[0]


def test_a_failed_job_has_a_kind_and_a_cost() -> None:
    plain = errors.JobFailed("no")
    assert (plain.kind, plain.billed_micros, plain.job, plain.task_id) == ("refused", 0, None, None)
    billed = errors.JobFailed("no", kind="render", billed_micros=3510)
    assert (billed.kind, billed.billed_micros) == ("render", 3510)


def test_try_later_has_a_delay_a_status_and_whether_the_request_was_sent() -> None:
    plain = errors.TryLater("soon")
    assert (plain.after_seconds, plain.status, plain.sent) == (None, None, True)
    full = errors.TryLater("soon", after_seconds=7.5, status=429, sent=False)
    assert (full.after_seconds, full.status, full.sent) == (7.5, 429, False)


def test_a_stopped_batch_has_a_flag_for_authentication() -> None:
    assert not errors.StopBatch("no").authentication
    assert errors.StopBatch("no", authentication=True).authentication


def test_an_ambiguous_run_has_the_parameters_that_were_sent() -> None:
    assert errors.Ambiguous("no answer").parameters == {}
    assert errors.Ambiguous("no answer", parameters={"prompt": "rain"}).parameters == {"prompt": "rain"}


def test_an_invalid_batch_lists_all_its_problems_in_order() -> None:
    problems = [errors.Problem("a.yaml:3:5", "no prompt"), errors.Problem("", "no jobs")]
    error = errors.InvalidBatch(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "a.yaml:3:5: no prompt\nno jobs"


@pytest.mark.parametrize(
    "error",
    [
        errors.JobFailed("no", kind="render", billed_micros=3510, job="koala", task_id="2221"),
        errors.TryLater("soon", after_seconds=7.5, status=429, sent=False),
        errors.StopBatch("no", authentication=True),
        errors.Ambiguous("no answer", parameters={"prompt": "rain"}),
        errors.Unusable("locked"),
        errors.InvalidBatch([errors.Problem("a.yaml:3:5", "no prompt")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_copying_and_pickling(error: errors.WanError) -> None:
    for clone in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(clone) is type(error)
        assert str(clone) == str(error)
        assert vars(clone) == vars(error)
