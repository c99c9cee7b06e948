"""The faults and settings by which the sandbox deviates from the documented service, on a manual clock."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sandbox_client import JSON, PNG, RUN, Wiro, signed

from wan_async.sandbox.account import FIRST_ID
from wan_async.sandbox.faults import API_ENDPOINTS, DENIALS, FAULTS, REFUSALS
from wan_async.sandbox.run_endpoint import TEAMMATE_PROJECT_ID
from wan_async.sandbox.tasks import STAGES

pytestmark = pytest.mark.asyncio
DENIED = (1, "There is no task yet.")


def messages_of(it: Wiro, token: str) -> list[dict[str, Any]]:
    """All WebSocket messages of a task until now."""
    messages: list[dict[str, Any]] = it.sandbox.messages(token, 0)[0]
    return messages


async def listed(it: Wiro, **fields: object) -> list[str]:
    return [task["id"] for task in (await it.call("Task/List", **fields))["tasklist"]]


# WebSocket messages


@pytest.mark.parametrize(("form", "names"), [("id", {"id"}), ("token", {"tasktoken"}), ("both", {"id", "tasktoken"})])
async def test_the_setting_decides_what_identifies_a_task_in_messages(form: str, names: set[str]) -> None:
    it = Wiro(socket_format=form)
    answer = await it.run()
    it.time += 10
    messages = messages_of(it, answer["socketaccesstoken"])
    values = {"id": answer["taskid"], "tasktoken": answer["socketaccesstoken"]}
    for message in messages:
        assert {name: message[name] for name in values if name in message} == {name: values[name] for name in names}
        assert message["result"] is True
    newest = {"success", "terminal", "exitCode"}
    assert {bool(newest & set(message)) for message in messages} == {form != "token"}


@pytest.mark.parametrize("fails", [False, True])
async def test_only_the_last_message_carries_the_result(fails: bool) -> None:
    it = Wiro()
    if fails:
        it.sandbox.faults.next("failed_render")
    answer = await it.run()
    it.time += 10
    *before, last = messages_of(it, answer["socketaccesstoken"])
    assert {(each["success"], each["terminal"], each["exitCode"]) for each in before} == {(None, False, None)}
    assert (last["type"], last["terminal"]) == ("task_postprocess_end", True)
    assert (last["success"], last["exitCode"]) == (not fails, int(fails))
    assert len(last["message"]) == (not fails)
    assert {each["type"] for each in before if each["message"] is None} == set(STAGES[:-1]) - {"task_output"}


async def test_the_last_message_of_a_cancelled_task_has_no_result() -> None:
    it = Wiro()
    answer = await it.run()
    await it.call("Task/Cancel", taskid=answer["taskid"])
    last = messages_of(it, answer["socketaccesstoken"])[-1]
    assert (last["type"], last["message"], last["terminal"], last["exitCode"]) == ("task_cancel", None, False, None)


# task_error


async def test_a_task_in_task_error_is_active_runs_later_and_is_charged_once() -> None:
    it = Wiro(task_error_seconds=4.0, concurrency_limit=1)
    it.sandbox.faults.next("task_error")
    answer = await it.run()
    for _ in range(4):
        shown = await it.detail(answer["taskid"])
        assert (shown["status"], shown["outputs"], shown["pexit"]) == ("task_error", None, None)
        assert shown["debugerror"]
        assert (await it.refused(RUN, prompt="x"))[0] == 96, "a task in task_error is active"
        it.time += 1
    assert (await it.detail(answer["taskid"]))["status"] == "task_queue"
    it.time += 9.9
    assert (await it.detail(answer["taskid"]))["status"] == "task_postprocess_start"
    assert it.sandbox.account.spent_micros == 0
    it.time += 0.1
    shown = await it.detail(answer["taskid"])
    assert (shown["status"], shown["pexit"], len(shown["outputs"])) == ("task_postprocess_end", "0", 1)
    assert float(shown["totalcost"]) == 0.05
    it.sandbox.account.settle(it.time + 100)
    assert it.sandbox.account.spent_micros == 50_000
    kinds = [each["type"] for each in messages_of(it, answer["socketaccesstoken"])]
    assert kinds[:4] == ["task_queue", "task_error", "task_queue", "task_accept"]
    assert list(dict.fromkeys(kinds[2:])) == list(STAGES)


async def test_a_stuck_task_shows_task_error_until_it_is_killed() -> None:
    it = Wiro(concurrency_limit=1)
    it.sandbox.faults.next("task_error_stuck")
    answer = await it.run()
    it.time += 1e6
    assert (await it.detail(answer["taskid"]))["status"] == "task_error"
    assert await listed(it) == [answer["taskid"]]
    assert (await it.refused(RUN, prompt="x"))[0] == 96
    assert (await it.refused("Task/Cancel", taskid=answer["taskid"]))[0] == 1
    messages, again = it.sandbox.messages(answer["socketaccesstoken"], 0)
    assert ([each["type"] for each in messages], again) == (["task_queue", "task_error"], it.time + 0.5)
    killed = await it.call("Task/Kill", taskid=answer["taskid"])
    assert killed["tasklist"][0]["status"] == "task_cancel"
    assert [each["type"] for each in messages_of(it, answer["socketaccesstoken"])][-1] == "task_cancel"
    assert it.sandbox.account.active(it.time) == 0
    await it.start()
    assert it.sandbox.account.spent_micros == 0


async def test_a_render_that_fails_after_task_error_is_not_charged() -> None:
    it = Wiro(faults={"task_error": 1.0, "failed_render": 1.0})
    task_id = await it.start()
    it.time += 13
    shown = await it.detail(task_id)
    assert (shown["status"], shown["pexit"]) == ("task_postprocess_end", "1")
    assert it.sandbox.account.spent_micros == 0


# Permanent refusals


async def test_refused_uploads_do_not_affect_images_inside_run() -> None:
    it = Wiro(uploads="refuse")
    refused = await it.send_file("File/Upload", "file")
    assert refused == {"errors": [{"code": 0, "message": "invalid-parameters"}], "result": False}
    assert (await it.send_file(RUN, "inputImage", prompt="x"))["result"] is True, "an image inside Run is accepted"
    it.sandbox.change(uploads="accept")
    assert (await it.upload(PNG))["url"]


@pytest.mark.parametrize("why", REFUSALS)
async def test_runs_can_be_refused_permanently(why: str) -> None:
    it = Wiro(refusal=why)
    for _ in range(2):
        assert await it.refused(RUN, prompt="x") == REFUSALS[why]
    assert not it.sandbox.account.tasks
    it.sandbox.change(refusal=None)
    await it.start()


async def test_a_number_of_runs_can_be_refused() -> None:
    it = Wiro()
    it.sandbox.refuse_runs(0, "Team spend limit has been reached", 2)
    for _ in range(2):
        assert await it.refused(RUN, prompt="x") == (0, "Team spend limit has been reached")
    await it.start()
    it.sandbox.refuse_runs(98, "sign in to run this model")
    for _ in range(3):
        assert await it.refused(RUN, prompt="x") == (98, "sign in to run this model")
    it.sandbox.refuse_runs(0, "", 0)
    await it.start()


# Teammates


async def test_tasks_of_teammates_are_listed_counted_and_charged() -> None:
    it = Wiro(concurrency_limit=3, teammates=1)
    (first,) = it.sandbox.account.tasks
    mine = await it.start(prompt="the same")
    (second,) = it.sandbox.add_teammate_tasks(1, {"prompt": "the same"}, project_id="801", seconds=5.0)
    assert await listed(it) == [second.id, mine, first]
    assert (await it.refused(RUN, prompt="x"))[0] == 96, "the limit applies to the workspace"
    shown = [await it.detail(each) for each in (first, mine, second.id)]
    assert [task["projectid"] for task in shown] == [TEAMMATE_PROJECT_ID, "699", "801"]
    assert shown[1]["parameters"] == shown[2]["parameters"]
    it.time += 5
    await it.start()
    assert it.sandbox.account.spent_micros == 50_000
    output = (await it.detail(second.id))["outputs"][0]
    assert (await it.get(output["url"])).status == 200
    assert int(output["size"]) == second.size


async def test_tasks_show_their_project_unless_disabled() -> None:
    it = Wiro(projects={"a": None, "b": None})
    assert (await it.detail(await it.start()))["projectid"] == "699"
    billed = await it.detail(await it.start(projectid="12"))
    assert (billed["projectid"], "projectid" in billed["parameters"]) == ("12", False)
    theirs = json.loads((await it.ask(RUN, b'{"prompt": "x"}', {**JSON, "x-api-key": "b"})).body)["taskid"]
    assert it.sandbox.account.tasks[theirs].project_id == "701"
    it.sandbox.change(show_projectid=False)
    assert "projectid" not in (await it.detail(billed["id"]))
    assert all("projectid" not in task for task in (await it.call("Task/List"))["tasklist"])


# Late charges


@pytest.mark.parametrize("call", ["Task/Kill", "Task/Cancel"])
async def test_a_late_charge_follows_the_cancellation(call: str) -> None:
    it = Wiro(late_charge_seconds=20.0)
    task_id = await it.start()
    it.sandbox.faults.next("late_charge")
    (ended,) = (await it.call(call, taskid=task_id))["tasklist"]
    assert (ended["status"], float(ended["totalcost"])) == ("task_cancel", 0)
    account = it.sandbox.account
    assert (account.active(it.time), account._reserved) == (0, 0)
    it.time += 19.9
    assert float((await it.detail(task_id))["totalcost"]) == 0
    assert account.balance_micros == 100_000_000
    it.time += 0.1
    shown = await it.detail(task_id)
    assert (shown["status"], float(shown["totalcost"]), shown["outputs"]) == ("task_cancel", 0.05, None)
    assert (account.balance_micros, account.spent_micros) == (99_950_000, 50_000)
    account.settle(it.time + 100)
    assert account.spent_micros == 50_000


async def test_a_killed_task_can_keep_its_exit_code_outputs_and_cost() -> None:
    it = Wiro(faults={"kept_outputs": 1.0, "late_charge": 1.0})
    task_id = await it.start()
    it.time += 5
    (killed,) = (await it.call("Task/Kill", taskid=task_id))["tasklist"]
    assert (killed["status"], killed["pexit"], float(killed["totalcost"])) == ("task_cancel", "0", 0.05)
    assert (await it.get(killed["outputs"][0]["url"])).status == 200
    it.time += 100
    it.sandbox.account.settle(it.time)
    assert it.sandbox.account.spent_micros == 50_000, "it is charged once"


async def test_a_minimum_balance_replaces_the_price_of_all_active_tasks() -> None:
    it = Wiro(balance_usd=0.6, minimum_usd=0.5, concurrency_limit=50)
    for _ in range(20):
        await it.start()
    it.time += 10
    assert (await it.refused(RUN, prompt="x"))[0] == 97
    it.sandbox.account.balance_micros = 500_000
    await it.start()


# The tool, the wallet, bodies and nonces


async def test_the_wallet_shows_the_balance_as_text() -> None:
    it = Wiro(balance_usd=7.5)
    await it.finished()
    (wallet,) = (await it.call("Wallet/List"))["list"]
    assert (wallet["balance"], wallet["currency"]) == ("7.450000", "USD")
    assert it.sandbox.requests["Wallet/List"] == 1


async def test_urlencoded_forms_and_json_sent_as_forms_are_accepted() -> None:
    it = Wiro()
    kind = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    body = b"prompt=ein+B%C3%A4r&negativePrompt=&seed=7"
    for sent in (body, '{"prompt": "ein Bär", "seed": 7}'.encode()):
        task_id = json.loads((await it.ask(RUN, sent, kind)).body)["taskid"]
        shown = (await it.detail(task_id))["parameters"]
        assert (shown["prompt"], shown["seed"], shown["negativePrompt"]) == ("ein Bär", "7", "")
    for broken in (b"prompt=%FF", b"prompt=\xff"):
        assert (await it.ask(RUN, broken, kind)).status == 400
    assert await it.refused("Task/Detail") == DENIED


async def test_a_nonce_in_whole_seconds_can_be_repeated_unless_strict() -> None:
    for strict, status in ((False, 200), (True, 401)):
        it = Wiro(strict_nonce=strict)
        same = signed(nonce="1734513807")
        assert (await it.ask("Wallet/List", b"{}", same)).status == 200
        assert (await it.ask("Wallet/List", b"{}", same)).status == status
        longer = signed(nonce="17345138071")
        assert [(await it.ask("Wallet/List", b"{}", longer)).status for _ in range(2)] == [200, 401]


async def test_signatures_can_be_required_later() -> None:
    it = Wiro(api_secret=None)
    plain = {"x-nonce": "", "x-signature": ""}
    assert (await it.ask("Wallet/List", b"{}", plain)).status == 200
    it.sandbox.change(api_secret="sandbox-secret")
    refused = await it.ask("Wallet/List", b"{}", plain)
    assert refused.status == 401
    assert "requires signature" in json.loads(refused.body)["errors"][0]["message"]
    assert (await it.ask("Wallet/List", b"{}")).status == 200


# Tasks that do not exist


@pytest.mark.parametrize("denial", DENIALS)
async def test_the_answer_for_a_task_that_does_not_exist_is_a_setting(denial: str) -> None:
    it = Wiro(denial=denial)
    for endpoint in ("Task/Detail", "Task/List", "Task/Cancel", "Task/Kill", "Task/InputOutputDelete"):
        assert await it.refused(endpoint, taskid="77") == DENIALS[denial]


async def test_a_fault_varies_the_answer_for_a_task_that_does_not_exist() -> None:
    it = Wiro(faults={"odd_denial@Task/Detail": 1.0})
    messages = {await it.refused("Task/Detail", taskid="77") for _ in range(30)}
    assert messages == {DENIALS["not-founded"], DENIALS["not-exist"]}
    assert await it.refused("Task/Kill", taskid="77") == DENIED


@pytest.mark.parametrize("endpoint", ["Task/Detail", "Task/List"])
async def test_a_denied_task_is_missing_everywhere_until_it_expires(endpoint: str) -> None:
    it = Wiro(denied_seconds=5.0)
    other, task_id = await it.start(), await it.start()
    it.sandbox.faults.next("denied", endpoint)
    if endpoint == "Task/Detail":
        assert await it.refused("Task/Detail", taskid=task_id) == DENIED
    else:
        (there,) = await listed(it)
        other, task_id = there, other if there == task_id else task_id
    for _ in range(2):
        assert await it.refused("Task/Detail", taskid=task_id) == DENIED
        answer = await it.call("Task/List")
        assert ([task["id"] for task in answer["tasklist"]], answer["total"]) == ([other], "1")
        assert (await it.detail(other))["id"] == other
        it.time += 2.4
    it.time += 0.2
    assert (await it.detail(task_id))["id"] == task_id
    assert len(await listed(it)) == 2


# Proxies and the CDN


@pytest.mark.parametrize("endpoint", API_ENDPOINTS)
@pytest.mark.parametrize(("fault", "status"), [("html_403", 403), ("html_404", 404)])
async def test_a_request_answered_by_a_firewall_is_not_processed(fault: str, status: int, endpoint: str) -> None:
    it = Wiro()
    it.sandbox.faults.next(fault, endpoint)
    answer = await it.ask(RUN if endpoint == "Run" else endpoint, b'{"prompt": "x"}')
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html")
    assert answer.body.startswith(b"<html>")
    assert not it.sandbox.account.tasks


async def test_clips_can_be_late_on_the_cdn() -> None:
    it = Wiro(late_cdn_seconds=6.0, faults={"late_cdn": 1.0})
    url = await it.clip_url()
    statuses = {(await it.get(url, method)).status for _ in range(30) for method in ("GET", "HEAD")}
    assert statuses == {403, 404}
    it.time += 5.9
    assert (await it.get(url)).status in (403, 404)
    it.time += 0.1
    assert (await it.get(url)).status == 200


async def test_outputs_and_exit_code_can_be_late() -> None:
    it = Wiro(late_outputs_seconds=6.0, faults={"late_outputs": 1.0}, balance_usd=1000.0)
    seen = set()
    for _ in range(20):
        answer = await it.run()
        it.time += 10
        shown = await it.detail(answer["taskid"])
        assert (shown["status"], float(shown["totalcost"])) == ("task_postprocess_end", 0.05)
        assert not shown["outputs"]
        seen.add((shown["outputs"] is None, shown["pexit"]))
        assert messages_of(it, answer["socketaccesstoken"])[-1]["message"] == []
        it.time += 5.9
        assert not (await it.detail(answer["taskid"]))["outputs"]
        it.time += 0.2
        shown = await it.detail(answer["taskid"])
        assert (shown["pexit"], len(shown["outputs"])) == ("0", 1)
        assert (await it.get(shown["outputs"][0]["url"])).status == 200
    assert seen == {(True, "0"), (False, "")}


async def test_a_failed_render_shows_its_exit_code_at_once() -> None:
    it = Wiro(faults={"late_outputs": 1.0, "failed_render": 1.0})
    assert (await it.finished())["pexit"] == "1"


async def test_if_range_never_matches_a_missing_or_weak_etag() -> None:
    it = Wiro(clip_bytes=5000, faults={"no_etag": 1.0})
    url = await it.clip_url()
    etags = {(await it.get(url)).headers.get("etag") for _ in range(20)}
    assert len(etags) == 2
    (weak,) = etags - {None}
    assert weak is not None
    assert weak.startswith('W/"')
    for etag in (weak, weak.removeprefix("W/")):
        assert (await it.get(url, range="bytes=4000-", if_range=etag)).status == 200
    part = await it.get(url, range="bytes=4000-")
    assert (part.status, part.headers["content-range"]) == (206, "bytes 4000-4999/5000")


async def test_the_cdn_can_ignore_a_range() -> None:
    it = Wiro(clip_bytes=5000)
    url = await it.clip_url()
    whole = await it.get(url)
    range_headers = {"range": "bytes=4000-", "if_range": whole.headers["etag"]}
    it.sandbox.faults.next("ignores_range")
    got = await it.get(url, **range_headers)
    assert (got.status, got.body, "content-range" in got.headers) == (200, whole.body, False)
    assert (await it.get(url, **range_headers)).status == 206
    it.sandbox.faults.next("ignores_range")
    await it.get(url)
    assert (await it.get(url, **range_headers)).status == 200, "the fault affects range requests only"


async def test_cdn_faults_can_be_combined() -> None:
    it = Wiro(clip_bytes=5000, faults={"cut_download": 1.0, "no_etag": 1.0, "ignores_range": 1.0})
    url = await it.clip_url()
    answer = await it.get(url, range="bytes=1000-")
    assert (answer.status, len(answer.body)) == (200, 5000)
    assert answer.cut_after is not None
    assert answer.cut_after < 5000


# Restarted ids


async def test_the_first_id_is_a_setting() -> None:
    it = Wiro(first_task_id=2221)
    assert [await it.start(), await it.start()] == ["2221", "2222"]
    assert await Wiro().start() == str(FIRST_ID)


async def test_tasks_with_the_same_id_keep_their_own_token_clip_and_order(tmp_path: Path) -> None:
    for state in (None, tmp_path):
        it = Wiro(state=state, clip_bytes=900, balance_usd=1000.0)
        with closing(it):
            made = []
            for _ in range(3):
                it.sandbox.restart_ids(FIRST_ID)
                made += [await it.run(), await it.run()]
                it.time += 3
            assert [answer["taskid"] for answer in made] == [str(FIRST_ID), str(FIRST_ID + 1)] * 3
            if state is not None:
                it.restart()
            it.time += 10
            clips = set()
            for number, answer in enumerate(made):
                token = answer["socketaccesstoken"]
                (shown,) = (await it.call("Task/Detail", tasktoken=token))["tasklist"]
                assert (shown["id"], shown["socketaccesstoken"]) == (answer["taskid"], token)
                assert shown["createtime"] == str(1_734_513_807 + number // 2 * 3)
                got = await it.get(shown["outputs"][0]["url"])
                assert got.status == 200
                clips.add(got.body)
                assert [each["type"] for each in messages_of(it, token)][-1] == "task_postprocess_end"
            assert len(clips) == 6
            newest = await it.detail(str(FIRST_ID))
            assert newest["socketaccesstoken"] == made[4]["socketaccesstoken"]
            tokens = [task["socketaccesstoken"] for task in (await it.call("Task/List"))["tasklist"]]
            assert tokens == [answer["socketaccesstoken"] for answer in reversed(made)]
            assert it.sandbox.account.spent_micros == 300_000
            assert await it.start() == str(FIRST_ID + 2)


async def test_killing_one_of_two_tasks_with_the_same_id_leaves_the_other() -> None:
    it = Wiro()
    first = await it.run()
    it.sandbox.restart_ids(int(first["taskid"]))
    second = await it.run()
    await it.call("Task/Kill", socketaccesstoken=first["socketaccesstoken"])
    it.time += 10
    ended = [
        (await it.call("Task/Detail", tasktoken=answer["socketaccesstoken"]))["tasklist"][0]["status"]
        for answer in (first, second)
    ]
    assert ended == ["task_cancel", "task_postprocess_end"]
    assert it.sandbox.account.spent_micros == 50_000


# All faults together


async def test_with_all_faults_no_task_is_charged_twice() -> None:
    it = Wiro(faults=dict.fromkeys(FAULTS, 0.3), balance_usd=1e6, list_page_cap=7)
    for number in range(150):
        await it.ask(RUN, json.dumps({"prompt": str(number)}).encode())
        it.time += 0.5
        await it.ask("Task/List", b"{}")
        for task in list(it.sandbox.account.tasks.values())[-3:]:
            await it.ask("Task/Detail", json.dumps({"taskid": task.id}).encode())
        if number % 10 == 0 and it.sandbox.account.tasks:
            task = list(it.sandbox.account.tasks.values())[-1]
            await it.ask("Task/Kill", json.dumps({"taskid": task.id}).encode())
    it.time += 1000
    account = it.sandbox.account
    account.settle(it.time)
    tasks = list(account.tasks.values())
    assert account.spent_micros == sum(task.cost(it.time) for task in tasks)
    assert account.active(it.time) == sum(task.error_seconds == math.inf and not task.cancelled for task in tasks) > 0
    assert {task.parameters["prompt"] for task in tasks} <= {str(number) for number in range(150)}
