"""Representations of a task over time: Task/Detail and WebSocket messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.sandbox.account import Account
from wan_async.sandbox.tasks import STAGES, Task
from wan_async.sandbox.views import next_message_at, outputs_of, socket_messages, task_view

FIELDS = [
    "id", "uuid", "socketaccesstoken", "parameters", "status", "pexit", "debugoutput",
    "debugerror", "starttime", "endtime", "elapsedseconds", "createtime", "canceltime", "assigntime",
    "accepttime", "preprocessstarttime", "preprocessendtime", "postprocessstarttime", "postprocessendtime", "cps",
    "totalcost", "categories", "outputs",
]  # fmt: skip


def task_of(**fields: Any) -> Task:
    task = Account(10**9, 0.0).create({"prompt": "x", "inputImageUrl": ""}, None, 50_000, 10.0, 100.0)
    for name, value in fields.items():
        setattr(task, name, value)
    return task


def messages_of(task: Task, now: float) -> list[tuple[object, object]]:
    return [(each["type"], each["message"]) for each in socket_messages(task, now, "http://x")]


@pytest.mark.parametrize("now", [100.0, 105.0, 110.0])
def test_a_task_has_every_documented_field_with_numbers_as_text(now: float) -> None:
    shown = task_view(task_of(), now, "http://x", "faithful")
    assert set(FIELDS) <= set(shown)
    for name in set(FIELDS) - {"parameters", "outputs", "pexit"}:
        assert isinstance(shown[name], str), name


def test_only_a_successful_task_has_outputs_and_a_cost() -> None:
    good = task_view(task_of(size=77), 110.0, "http://x", "faithful")
    assert (good["pexit"], float(good["totalcost"]), good["size"]) == ("0", 0.05, "77")
    assert good["outputs"][0]["url"].startswith("http://x/cdn/")
    for other in (task_of(pexit="1"), task_of(error_seconds=5.0), task_of(cancelled=105.0), task_of(held=True)):
        shown = task_view(other, 110.0, "http://x", "faithful")
        assert (shown["outputs"], float(shown["totalcost"]), shown["size"]) == (None, 0, "0")
    deleted = task_view(task_of(deleted=True), 110.0, "http://x", "faithful")
    assert (deleted["outputs"], float(deleted["totalcost"])) == (None, 0.05), "deleting files refunds nothing"
    assert outputs_of(task_of(), 109.9, "http://x") == []


def test_only_urls_of_own_uploads_use_the_requested_host() -> None:
    own = task_of(parameters={"inputImage": "/v1/File/abc/inputImage-1.png"})
    assert (
        task_view(own, 100.0, "http://x", "faithful")["parameters"]["inputImage"]
        == "http://x/v1/File/abc/inputImage-1.png"
    )
    sent = task_of(parameters={"inputImage": "https://example.com/a.png"})
    assert task_view(sent, 100.0, "http://x", "faithful")["parameters"]["inputImage"] == "https://example.com/a.png"


def test_without_an_image_nothing_is_rewritten() -> None:
    assert task_view(task_of(), 100.0, "http://x", "rewritten")["parameters"] == {"prompt": "x", "inputImageUrl": ""}


def test_only_outputs_and_the_end_have_message_content() -> None:
    messages = messages_of(task_of(), 110.0)
    assert {kind for kind, message in messages if message is None} == set(STAGES[:-1]) - {"task_output"}
    texts = [message for kind, message in messages if kind == "task_output"]
    assert isinstance(texts[0], str)
    assert [step["percentage"] for step in texts[1:] if isinstance(step, dict)] == [str(10 * n) for n in range(1, 11)]
    kind, outputs = messages[-1]
    assert (kind, outputs) == ("task_postprocess_end", outputs_of(task_of(), 110.0, "http://x"))


def test_error_output_is_sent_before_the_end() -> None:
    assert messages_of(task_of(pexit="1", log="it broke"), 110.0)[-2:] == [
        ("task_error", "it broke"),
        ("task_postprocess_end", []),
    ]
    assert messages_of(task_of(pexit="1", log="it broke"), 109.9)[-1] == ("task_postprocess_start", None)


def test_the_messages_of_a_cancelled_task_end_with_it() -> None:
    messages = messages_of(task_of(cancelled=100.0, log="unsaid"), 200.0)
    assert messages == [("task_queue", None), ("task_cancel", None)]
    assert next_message_at(task_of(cancelled=100.0), 200.0) is None


@given(st.lists(st.floats(0, 14), min_size=1, max_size=20), st.booleans(), st.floats(0.5, 12))
def test_messages_are_append_only_and_never_late(steps: list[float], held: bool, cancelled: float) -> None:
    task = task_of(held=held)
    before: list[object] = []
    for step in sorted(steps):
        now = 100.0 + step
        if step >= cancelled and task.cancelled is None and not task.is_over(now):
            task.cancelled = now
        # output URLs differ each time
        messages = [kind if isinstance(message, list) else (kind, message) for kind, message in messages_of(task, now)]
        assert messages[: len(before)] == before
        before = messages
        again = next_message_at(task, now)
        assert (again is None) == task.is_over(now)
        if again is not None:
            assert now < again <= now + 0.5


@pytest.mark.parametrize("created", [0.0, 1_790_000_000.3, 1_790_000_123.7])
@pytest.mark.parametrize("released", [2.5, 6.1, 30.0])
def test_a_task_with_a_late_clip_sends_each_message_once(created: float, released: float) -> None:
    """Regression: more progress messages than steps shifted the index, and the last message was lost."""
    account = Account(10**9, 0.0)
    for seconds in (2.37, 3.1, 4.0, 5.93):
        task = account.create({}, None, 50_000, seconds, created)
        task.held = True
        messages: list[dict[str, object]] = []
        now: float | None = created
        while now is not None:
            if task.held and now >= created + released:
                account.release(task, now)
            messages += socket_messages(task, now, "http://127.0.0.1")[len(messages) :]
            now = next_message_at(task, now)
        whole = socket_messages(task, created + 100, "http://127.0.0.1")
        assert (messages[:-1], len(messages)) == (whole[:-1], len(whole))
        assert messages[-1]["type"] == "task_postprocess_end"
