"""The sandbox without a network, compared with the API's documentation, on a manual clock."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from sandbox_client import BASE, JSON, PNG, RUN, Wiro, signed

from wan_async.sandbox import ClipOrder
from wan_async.sandbox.model_description import MODEL
from wan_async.sandbox.tasks import STAGES

pytestmark = pytest.mark.asyncio


# Signatures


async def test_the_documented_signature_is_accepted() -> None:
    it = Wiro(api_key="key123", api_secret="secret456")
    headers = {
        "x-api-key": "key123",
        "x-nonce": "1734513807",  # printf secret4561734513807 | openssl dgst -sha256 -hmac key123
        "x-signature": "59202d9abf3b8bc5e8c3d05153d1e38c183d397c6774e978d40da13586a42ab2",
    }
    assert (await it.ask("Task/List", b"{}", headers)).status == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (signed(key="another"), "Project authorization is not founded."),
        (signed(secret="another"), "Project authorization is not valid."),
        (signed(nonce="12ab"), "Project authorization is not valid."),
        ({"x-signature": ""}, "Project requires signature authentication"),
        ({"x-nonce": ""}, "Project requires signature authentication"),
    ],
)
async def test_wrong_credentials_are_401_with_the_reason(headers: dict[str, str], message: str) -> None:
    it = Wiro()
    answer = await it.ask(RUN, b'{"prompt": "x"}', headers)
    assert answer.status == 401
    assert json.loads(answer.body)["errors"][0]["message"].startswith(message)
    assert not it.sandbox.account.tasks


async def test_a_key_only_project_needs_the_key_alone() -> None:
    it = Wiro(api_secret=None)
    plain = {"x-nonce": "", "x-signature": ""}
    assert (await it.ask("Task/List", b"{}", plain)).status == 200
    assert (await it.ask("Task/List", b"{}", plain | {"x-api-key": "another"})).status == 401


# Run


async def test_a_run_creates_a_task_with_id_and_token() -> None:
    it = Wiro()
    answer = await it.run()
    assert answer == {
        "errors": [], "taskid": answer["taskid"], "socketaccesstoken": answer["socketaccesstoken"], "result": True,
    }  # fmt: skip
    by_token = await it.call("Task/Detail", tasktoken=answer["socketaccesstoken"])
    assert by_token["tasklist"][0]["id"] == answer["taskid"]
    assert it.sandbox.requests == {"Run": 1, "Task/Detail": 1}
    assert [entry[1:] for entry in it.sandbox.log] == [("Run", answer["taskid"]), ("Task/Detail", answer["taskid"])]


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"resolution": "1080P"}, "resolution"),
        ({"aspectRatio": "4:3"}, "aspectRatio"),
        ({"seed": "1.5"}, "seed"),
        ({"seed": ""}, "seed"),
        ({"inputImageUrl": "wan_2_2_input_3.png"}, "inputImageUrl"),
    ],
)
async def test_an_invalid_parameter_is_named(fields: dict[str, object], parameter: str) -> None:
    it = Wiro()
    code, message = await it.refused(RUN, **{"prompt": "x", **fields})
    assert code == 0
    assert message.startswith(f"Request parameter [{parameter}] ")
    assert not it.sandbox.account.tasks


async def test_numbers_and_every_valid_choice_are_accepted() -> None:
    it = Wiro(concurrency_limit=12)
    for resolution, ratio in itertools.product(("480P", "580P", "720P"), ("Default", "16:9", "9:16", "1:1")):
        await it.start(resolution=resolution, aspectRatio=ratio, seed=-7)
    assert {task.price for task in it.sandbox.account.tasks.values()} == {50_000, 80_000, 120_000}


async def test_an_image_in_a_multipart_body_reaches_the_clip() -> None:
    it = Wiro()
    content = await it.send_file(RUN, "inputImage", prompt="ein Bär", inputImageUrl="", seed="3")
    assert it.orders == [ClipOrder(PNG, "ein Bär", "480P", "Default", "3", content["taskid"])]
    task = it.sandbox.account.tasks[content["taskid"]]
    assert task.image == hashlib.sha256(PNG).hexdigest()
    assert "/v1/File/" in task.parameters["inputImage"]


async def test_json_with_a_multipart_header_is_accepted() -> None:
    it = Wiro()
    answer = await it.ask(RUN, b'\n{"prompt": "x"}', {"content-type": "multipart/form-data"})
    assert json.loads(answer.body)["result"] is True


async def test_other_models_are_not_accessible() -> None:
    it = Wiro()
    assert await it.refused("Run/Wan-AI/other", prompt="x") == (1, "tool-not-accessible")
    assert await it.refused("Tool/Detail", slugowner="a", slugproject="b") == (1, "tool-not-accessible")


async def test_unknown_endpoints_and_methods_are_404() -> None:
    it = Wiro()
    for endpoint, method in (("Task/Nothing", "POST"), ("Task/List", "GET")):
        answer = await it.ask(endpoint, b"{}", method=method)
        assert answer.status == 404
        assert json.loads(answer.body) == {"errors": [{"code": 0, "message": "Error parsing url."}], "result": False}
    assert (await it.get("http://x/elsewhere")).status == 404


# Uploads and images


async def test_an_upload_is_served_and_can_be_an_input() -> None:
    it = Wiro()
    listed = await it.upload()
    assert listed["contenttype"] == "image/png"
    assert listed["size"] == str(len(PNG))
    assert listed["url"].startswith(BASE)
    got = await it.get(listed["url"])
    assert (got.status, got.body, got.headers["content-type"]) == (200, PNG, "image/png")
    await it.start(inputImageUrl=listed["url"].replace("4711", "9999"))
    await it.start(inputImageUrl="https://example.com/foreign.png")
    await it.start(inputImageUrl=f"{BASE}/v1/File/unknown/input")
    assert [order.image for order in it.orders] == [PNG, None, None]


async def test_a_missing_or_too_large_upload_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Wiro()
    assert await it.refused("File/Upload") == (0, "Request files [file] required")
    monkeypatch.setattr("wan_async.sandbox.file_endpoints.MAX_UPLOAD_BYTES", 3)
    assert "too large" in (await it.send_file("File/Upload", "file"))["errors"][0]["message"]
    assert (await it.get(f"{BASE}/v1/File/unknown/input")).status == 404


# Statuses


async def test_a_task_goes_through_every_status_in_order_and_ends_with_a_clip() -> None:
    it = Wiro()
    task_id = await it.start()
    seen: list[str] = []
    while (task := await it.detail(task_id))["status"] != STAGES[-1]:
        assert task["outputs"] is None
        assert task["pexit"] is None
        assert float(task["totalcost"]) == 0
        seen.append(task["status"])
        it.time += 0.05
    assert tuple(dict.fromkeys(seen)) == STAGES[:-1]
    assert seen == sorted(seen, key=STAGES.index)
    assert task["pexit"] == "0"
    assert float(task["totalcost"]) == 0.05
    times = [
        int(task[name])
        for name in (
            "createtime", "accepttime", "preprocessstarttime", "preprocessendtime", "assigntime", "starttime",
            "endtime", "postprocessstarttime", "postprocessendtime",
        )
    ]  # fmt: skip
    assert times == sorted(times)


async def test_future_times_are_zero_and_numbers_are_text() -> None:
    it = Wiro()
    task = await it.detail(await it.start())
    for name, value in task.items():
        assert value is None or isinstance(value, (str, dict)), name
    assert [task[name] for name in ("starttime", "endtime", "postprocessendtime", "canceltime")] == ["0"] * 4
    assert json.loads(task["categories"])


async def test_a_task_of_zero_seconds_ends_at_once() -> None:
    it = Wiro(task_seconds=(0.0, 0.0))
    assert (await it.detail(await it.start()))["status"] == "task_postprocess_end"


async def test_a_new_task_becomes_visible_after_a_delay() -> None:
    it = Wiro(visible_after_seconds=3.0)
    first = await it.start()
    assert await it.refused("Task/Detail", taskid=first) == (1, "There is no task yet.")
    assert await it.refused("Task/List") == (1, "There is no task yet.")
    it.time += 3
    second = await it.start()
    assert (await it.detail(first))["id"] == first
    assert [task["id"] for task in (await it.call("Task/List"))["tasklist"]] == [first]
    assert await it.refused("Task/Kill", taskid=second) == (1, "There is no task yet.")


@pytest.mark.parametrize(
    ("echo", "expected"),
    [
        ("faithful", {"inputImageUrl": "https://example.com/a.png", "seed": "5"}),
        ("string", {"inputImageUrl": "https://example.com/a.png", "seed": "5"}),
        ("rewritten", {"seed": "5"}),
        ("empty", {}),
    ],
)
async def test_the_echo_of_parameters_is_a_setting(echo: str, expected: dict[str, str]) -> None:
    it = Wiro(echo=echo)
    task = await it.detail(await it.start(inputImageUrl="https://example.com/a.png", seed="5"))
    shown = task["parameters"]
    assert isinstance(shown, str) == (echo == "string")
    shown = json.loads(shown) if echo == "string" else shown
    assert {name: shown.get(name) for name in expected} == expected
    if echo == "empty":
        assert shown == {}
    if echo == "rewritten":
        assert "inputImageUrl" not in shown
        assert shown["inputImage"].startswith(f"{BASE}/v1/File/")


# Task/List


async def test_the_list_is_paged_with_the_newest_first() -> None:
    it = Wiro(list_page_cap=3)
    ids = [await it.start() for _ in range(5)]

    async def page(**fields: object) -> list[str]:
        answer = await it.call("Task/List", type="model", sort="id", order="DESC", modelName=MODEL, **fields)
        assert answer["total"] == "5"
        return [task["id"] for task in answer["tasklist"]]

    assert await page(start="0", limit="2") == ids[:2:-1]
    assert await page(start="2", limit="2") == ids[2:0:-1]
    assert await page(start="0", limit="100") == ids[:1:-1]
    assert await page(start="4", limit="3") == ids[:1]
    assert await page(start="5", limit="3") == []
    assert await it.refused("Task/List", modelName="another/model") == (1, "There is no task yet.")


# Cancel, Kill, InputOutputDelete, Tool


async def test_a_queued_task_can_be_cancelled_free_of_charge() -> None:
    it = Wiro()
    task_id = await it.start()
    (task,) = (await it.call("Task/Cancel", taskid=task_id))["tasklist"]
    assert task["status"] == "task_cancel"
    assert task["canceltime"] == str(int(it.time))
    it.time += 100
    assert (await it.detail(task_id))["status"] == "task_cancel"
    assert it.sandbox.account.spent_micros == 0
    assert it.sandbox.account.active(it.time) == 0


async def test_a_running_task_can_be_killed_but_not_cancelled() -> None:
    it = Wiro()
    answer = await it.run()
    it.time += 5
    assert await it.refused("Task/Cancel", taskid=answer["taskid"]) == (1, "Task is not in a cancellable state.")
    killed = await it.call("Task/Kill", socketaccesstoken=answer["socketaccesstoken"])
    assert killed["tasklist"][0]["status"] == "task_cancel"
    assert (await it.refused("Task/Kill", taskid=answer["taskid"]))[0] == 1
    assert (await it.refused("Task/Kill", taskid="77"))[0] == 1
    it.time += 100
    await it.detail(answer["taskid"])
    assert it.sandbox.account.spent_micros == 0


async def test_deleting_files_is_idempotent() -> None:
    it = Wiro()
    answer = await it.run()
    token = answer["socketaccesstoken"]
    assert (await it.refused("Task/InputOutputDelete", tasktoken=token))[0] == 1
    it.time += 10
    url = (await it.detail(answer["taskid"]))["outputs"][0]["url"]
    for _ in range(2):
        assert (await it.call("Task/InputOutputDelete", tasktoken=token))["result"] is True
    assert (await it.detail(answer["taskid"]))["outputs"] is None
    assert (await it.get(url)).status == 404


@pytest.mark.parametrize("method", ["cpr", "cps"])
async def test_tasks_are_charged_the_prices_of_the_tool(method: str) -> None:
    it = Wiro(pricing=method, prices={"480P": 0.01, "580P": 0.02, "720P": 0.03})
    (tool,) = (await it.call("Tool/Detail", slugowner="Wan-AI", slugproject=MODEL.partition("/")[2]))["tool"]
    entries = json.loads(tool["dynamicprice"])
    assert {"inputs": {"resolution": "720P"}, "price": 0.03, "priceMethod": method} in entries
    task = await it.finished(resolution="720P")
    assert float(task["totalcost"]) == pytest.approx(0.03 if method == "cpr" else 0.3)


# Money


async def test_only_successful_tasks_are_charged_and_only_at_their_end() -> None:
    it = Wiro()
    account = it.sandbox.account
    it.sandbox.faults.next("failed_render")
    failed = await it.start()
    good = await it.start()
    it.time += 9.99
    account.settle(it.time)
    assert (account.spent_micros, account.balance_micros) == (0, 100_000_000)
    it.time += 0.01
    ended = account.settle(it.time)
    assert {task.id for task in ended} == {failed, good}
    assert (account.spent_micros, account.balance_micros) == (50_000, 99_950_000)
    assert account.settle(it.time + 100) == []
    shown = await it.detail(failed)
    assert (shown["status"], shown["pexit"], shown["outputs"]) == ("task_postprocess_end", "1", None)
    assert shown["debugerror"]
    assert float(shown["totalcost"]) == 0


async def test_the_limit_falls_with_the_balance() -> None:
    it = Wiro(balance_usd=30.0, prices={"480P": 6.0})
    for _ in range(3):
        await it.start()
    code, message = await it.refused(RUN, prompt="x")
    assert code == 96
    assert "$30.00" in message
    assert "3 tasks" in message
    it.time += 10
    await it.start()
    assert (await it.refused(RUN, prompt="x"))[0] == 96


async def test_the_limit_can_be_set_scheduled_and_changed() -> None:
    it = Wiro(balance_usd=1000.0, limit_schedule=[(5.0, 2), (20.0, 1)])
    account = it.sandbox.account
    assert account.limit(it.time) is None
    account.concurrency_limit = 7
    assert account.limit(it.time) == 7
    assert account.limit(it.time + 5) == 2
    assert account.limit(it.time + 21) == 1


async def test_active_tasks_reserve_their_price() -> None:
    it = Wiro(balance_usd=0.12, concurrency_limit=10)
    await it.start()
    doomed = await it.start()
    code, message = await it.refused(RUN, prompt="x")
    assert code == 97
    assert "balance" in message
    await it.call("Task/Kill", taskid=doomed)
    await it.start()
    it.time += 10
    assert (await it.refused(RUN, prompt="x"))[0] == 97
    assert it.sandbox.account.balance_micros == 20_000


# The CDN


async def test_a_clip_is_served_whole_by_range_and_by_head() -> None:
    it = Wiro(clip_bytes=5000)
    (output,) = (await it.finished())["outputs"]
    url = output["url"]
    assert output["contenttype"] == "video/mp4"
    whole = await it.get(url)
    assert whole.status == 200
    assert len(whole.body) == 5000 == int(output["size"]) == int(whole.headers["content-length"])
    assert not whole.headers["etag"].startswith("W/")
    head = await it.get(url, "HEAD")
    assert (head.body, head.headers) == (b"", whole.headers)
    etag = whole.headers["etag"]
    rest = await it.get(url, range="bytes=4000-", if_range=etag)
    assert (rest.status, rest.body, rest.headers["content-range"]) == (206, whole.body[4000:], "bytes 4000-4999/5000")
    middle = await it.get(url, range="bytes=10-19")
    assert (middle.status, middle.body) == (206, whole.body[10:20])
    assert (await it.get(url, "HEAD", range="bytes=10-19")).body == b""
    assert (await it.get(url, range="bytes=4000-", if_range='"another"')).body == whole.body
    beyond = await it.get(url, range="bytes=5000-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */5000")
    assert it.sandbox.requests["cdn"] == 7
    assert it.sandbox.leaks == []


async def test_placeholder_clips_are_boxes_and_differ() -> None:
    it = Wiro(clip_bytes=1000)
    clips = [(await it.get(await it.clip_url())).body for _ in range(2)]
    assert clips[0] != clips[1]
    for clip in clips:
        kinds, place = [], 0
        while place < len(clip):
            kinds.append(clip[place + 4 : place + 8])
            place += int.from_bytes(clip[place : place + 4], "big")
        assert kinds == [b"ftyp", b"moov", b"mdat", b"free"]
        assert place == len(clip) == 1000


async def test_output_urls_use_the_requested_host_and_expire() -> None:
    it = Wiro(url_seconds=60.0)
    task_id = await it.start()
    it.time += 10
    answer = await it.ask("Task/Detail", json.dumps({"taskid": task_id}).encode(), base_url="https://other:1")
    url = json.loads(answer.body)["tasklist"][0]["outputs"][0]["url"]
    assert url.startswith("https://other:1/cdn/")
    it.time += 60
    assert (await it.get(url)).status == 200
    it.time += 2
    assert (await it.get(url)).status == 403
    fresh = (await it.detail(task_id))["outputs"][0]["url"]
    assert (await it.get(fresh)).status == 200


async def test_unknown_clips_are_not_found_and_leaked_credentials_are_recorded() -> None:
    it = Wiro()
    running = await it.start()
    for path in (f"/cdn/{running}/1/0.mp4", "/cdn/77/1/0.mp4", "/cdn/strange"):
        assert (await it.get(BASE + path)).status == 404
    await it.get(f"{BASE}/cdn/1", x_api_key="sandbox-key")
    await it.get(f"{BASE}/cdn/2", x_signature="abc")
    assert it.sandbox.leaks == ["/cdn/1", "/cdn/2"]


# Clips rendered elsewhere


async def test_a_task_waits_for_its_clip_before_it_ends_and_is_charged() -> None:
    it = Wiro(concurrency_limit=2)
    started: list[ClipOrder] = []
    it.sandbox.render_with(started.append)
    it.sandbox.faults.next("failed_render")
    await it.start()
    slow, quick = await it.run(), None
    assert [order.task_id for order in started] == [slow["taskid"]], "a task that fails needs no clip"
    it.time += 50
    shown = await it.detail(slow["taskid"])
    assert (shown["status"], shown["outputs"]) == ("task_output_full", None)
    messages, next_at = it.sandbox.messages(slow["socketaccesstoken"], 0)
    assert messages[-1]["type"] == "task_output_full"
    assert next_at is not None
    assert it.sandbox.account.spent_micros == 0
    quick = await it.start()
    assert (await it.refused(RUN, prompt="x"))[0] == 96, "a held task is active"
    it.sandbox.deliver_clip(quick, b"early")
    it.sandbox.deliver_clip(slow["taskid"], b"late")
    shown = await it.detail(slow["taskid"])
    assert shown["status"] == "task_postprocess_end"
    assert (await it.get(shown["outputs"][0]["url"])).body == b"late"
    assert (await it.detail(quick))["status"] == "task_queue", "an early clip does not end the task early"
    it.time += 10
    it.sandbox.account.settle(it.time)
    assert it.sandbox.account.spent_micros == 100_000


async def test_a_clip_that_cannot_be_rendered_fails_its_task() -> None:
    it = Wiro()
    it.sandbox.render_with(lambda order: None)
    task_id = await it.start()
    it.sandbox.deliver_clip(task_id, None)
    it.time += 10
    shown = await it.detail(task_id)
    assert (shown["status"], shown["pexit"], shown["outputs"]) == ("task_postprocess_end", "1", None)
    assert shown["debugerror"]
    assert it.sandbox.account.spent_micros == 0


async def test_the_late_clip_of_a_killed_task_is_ignored() -> None:
    it = Wiro()
    it.sandbox.render_with(lambda order: None)
    task_id = await it.start()
    it.time += 50
    assert it.sandbox.account.active(it.time) == 1
    await it.call("Task/Kill", taskid=task_id)
    it.sandbox.deliver_clip(task_id, b"late")
    assert (await it.detail(task_id))["status"] == "task_cancel"
    assert it.sandbox.account.active(it.time) == 0
    assert it.sandbox.account.spent_micros == 0


# Messages and callbacks


async def test_messages_are_sent_once_and_in_order() -> None:
    it = Wiro()
    answer = await it.run()
    token = answer["socketaccesstoken"]
    messages: list[dict[str, object]] = []
    while True:
        fresh, next_at = it.sandbox.messages(token, len(messages))
        messages += fresh
        if next_at is None:
            break
        assert it.time < next_at <= it.time + 7.1
        it.time = next_at
    lifecycle = [message["type"] for message in messages if message["message"] is None]
    assert tuple(lifecycle) == tuple(stage for stage in STAGES[:-1] if stage != "task_output")
    outputs = [message["message"] for message in messages if message["type"] == "task_output"]
    assert isinstance(outputs[0], str), "output is a text or a progress"
    progress = [each for each in outputs if isinstance(each, dict)]
    assert [step["percentage"] for step in progress] == [str(10 * step) for step in range(1, 11)]
    last = messages[-1]
    assert (last["type"], last["id"]) == ("task_postprocess_end", answer["taskid"])
    assert isinstance(last["message"], list)
    assert len(last["message"]) == 1
    assert it.sandbox.messages(token, len(messages)) == ([], None)
    assert it.sandbox.messages("unknown", 0) == ([], None)


async def test_a_callback_is_due_once() -> None:
    it = Wiro()
    task_id = await it.start(callbackUrl="http://127.0.0.1:1/secret")
    await it.start()
    assert it.sandbox.callbacks_due() == []
    it.time += 10
    ((url, shown),) = it.sandbox.callbacks_due()
    assert url == "http://127.0.0.1:1/secret"
    assert (shown["id"], shown["status"]) == (task_id, "task_postprocess_end")
    assert it.sandbox.callbacks_due() == []


# Faults


@pytest.mark.parametrize(
    ("fault", "status", "tasks"),
    [("drop_before", 0, 0), ("drop_after", 0, 1), ("http_500", 500, 0), ("http_429", 429, 0), ("cut_json", 200, 1)],
)
async def test_a_fault_happens_before_or_after_the_task_is_created(fault: str, status: int, tasks: int) -> None:
    it = Wiro()
    it.sandbox.faults.next(fault, "Run")
    answer = await it.ask(RUN, b'{"prompt": "x"}')
    assert answer.status == status
    assert answer.drop == fault.startswith("drop")
    assert len(it.sandbox.account.tasks) == tasks
    if fault == "http_429":
        assert answer.headers["retry-after"] == "1"
    if fault == "http_500":
        assert answer.body.startswith(b"<html>")
    if fault == "cut_json":
        with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
            json.loads(answer.body)
    assert (await it.run())["result"] is True


async def test_half_of_the_bad_gateways_hide_a_task() -> None:
    it = Wiro(balance_usd=10_000.0, faults={"html_502": 1.0})
    for _ in range(200):
        assert (await it.ask(RUN, b'{"prompt": "x"}')).status == 502
    assert 70 < len(it.sandbox.account.tasks) < 130


async def test_delays_use_the_sleep_of_the_settings() -> None:
    it = Wiro(latency_seconds=0.25)
    it.sandbox.faults.next("slow_answer")
    await it.start()
    latency, slow = it.slept
    assert latency == 0.25
    assert 1 <= slow <= 3


async def test_an_existing_task_vanishes_once() -> None:
    it = Wiro()
    task_id = await it.start()
    it.sandbox.faults.next("vanish", "Task/Detail")
    assert await it.refused("Task/Detail", taskid=task_id) == (1, "There is no task yet.")
    assert (await it.detail(task_id))["id"] == task_id
    it.sandbox.faults.next("vanish", "Task/List")
    assert (await it.call("Task/List"))["tasklist"] == []
    assert len((await it.call("Task/List"))["tasklist"]) == 1


async def test_a_wrong_size_is_always_the_same() -> None:
    it = Wiro()
    it.sandbox.faults.next("bad_size")
    task = await it.finished()
    served = await it.get(task["outputs"][0]["url"])
    assert int(task["outputs"][0]["size"]) != len(served.body) == int(served.headers["content-length"])
    assert (await it.detail(task["id"]))["outputs"][0]["size"] == task["outputs"][0]["size"]


async def test_a_file_in_another_part_is_not_the_image() -> None:
    it = Wiro()
    task_id = (await it.send_file(RUN, "picture", prompt="x"))["taskid"]
    assert it.sandbox.account.tasks[task_id].image is None
    assert (await it.send_file("File/Upload", "picture"))["errors"] == [
        {"code": 0, "message": "Request files [file] required"}
    ]


async def test_the_list_can_be_ascending_and_its_numbers_are_checked() -> None:
    it = Wiro(visible_after_seconds=1.0)
    ids = [await it.start() for _ in range(4)]
    it.time += 1
    await it.start()
    answer = await it.call("Task/List", order="asc", start=1, limit=9)
    assert [task["id"] for task in answer["tasklist"]] == ids[1:]
    assert answer["total"] == "4"
    for name in ("start", "limit"):
        assert await it.refused("Task/List", **{name: "-1"}) == (0, f"Request parameter [{name}] is not valid")


async def test_a_cancelled_task_has_no_history_after_its_end() -> None:
    it = Wiro()
    queued, running = await it.run(), await it.run()
    await it.call("Task/Cancel", taskid=queued["taskid"])
    it.time += 4
    await it.call("Task/Kill", taskid=running["taskid"])
    it.time += 100
    shown = await it.detail(queued["taskid"])
    assert [shown[name] for name in ("accepttime", "starttime", "endtime", "postprocessendtime")] == ["0"] * 4
    assert float(shown["elapsedseconds"]) == 0
    messages, next_at = it.sandbox.messages(queued["socketaccesstoken"], 0)
    assert ([message["type"] for message in messages], next_at) == (["task_queue", "task_cancel"], None)
    messages, _ = it.sandbox.messages(running["socketaccesstoken"], 0)
    kinds = [message["type"] for message in messages]
    assert kinds[-1] == "task_cancel"
    assert "task_output_full" not in kinds
    assert 1 < kinds.count("task_output") < 8
    over = it.sandbox.account.tasks[running["taskid"]]
    with pytest.raises(ValueError, match="has ended"):
        it.sandbox.end(over)


# Projects, pages and odd input


async def test_tasks_of_another_project_are_invisible_but_share_the_balance() -> None:
    it = Wiro(projects={"other-key": "other-secret"}, concurrency_limit=2)

    async def other(endpoint: str, **fields: object) -> dict[str, Any]:
        headers = {**JSON, **signed("other-key", "other-secret")}
        content: dict[str, Any] = json.loads((await it.ask(endpoint, json.dumps(fields).encode(), headers)).body)
        return content

    mine = await it.start()
    theirs = (await other(RUN, prompt="x"))["taskid"]
    assert (await it.refused(RUN, prompt="x"))[0] == 96, "the limit applies to the account"
    for endpoint in ("Task/Detail", "Task/Kill", "Task/Cancel", "Task/InputOutputDelete"):
        assert await it.refused(endpoint, taskid=theirs) == (1, "There is no task yet.")
        assert (await other(endpoint, taskid=mine))["errors"] == [{"code": 1, "message": "There is no task yet."}]
    listed = await it.call("Task/List")
    assert (listed["total"], [task["id"] for task in listed["tasklist"]]) == ("1", [mine])
    listed = await other("Task/List")
    assert (listed["total"], [task["id"] for task in listed["tasklist"]]) == ("1", [theirs])
    it.time += 10
    it.sandbox.account.settle(it.time)
    assert it.sandbox.account.spent_micros == 100_000


async def test_a_page_has_at_most_100_tasks() -> None:
    it = Wiro(balance_usd=1000.0, list_page_cap=1000)
    for _ in range(101):
        await it.start()
    answer = await it.call("Task/List", start="0", limit="500")
    assert (answer["total"], len(answer["tasklist"])) == ("101", 100)
    assert len((await it.call("Task/List"))["tasklist"]) == 20


@pytest.mark.parametrize("url", ["http://[::1", "http://", "https://x\x00y/", "http://[x]/v1/File/a/b"])
async def test_a_malformed_image_url_creates_a_task_without_an_image(url: str) -> None:
    it = Wiro()
    task = await it.detail(await it.start(inputImageUrl=url))
    assert task["parameters"]["inputImageUrl"] == url


async def test_a_head_request_is_never_cut() -> None:
    it = Wiro()
    url = await it.clip_url()
    it.sandbox.faults.next("cut_download")
    assert (await it.get(url, "HEAD")).cut_after is None
    assert (await it.get(url)).cut_after is not None
