"""`doctor --render`: the live conformance test, its recording, and a server that answers from it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import pytest
from pictures import png
from replay import replaying
from servers import Server, events_of, in_process, sandbox_server, start

from wan_async.cli.checks.recording import Recording


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture
def recording(server: Server, tmp_path: Path) -> Path:
    done = in_process("doctor", "--render", "--yes", "--json", "-o", tmp_path / "first", env=server.env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.get("check"): line for line in events_of(done.stdout)}["render"]
    assert (found["status"], found["cost_usd"]) == ("ok", "0.05")
    return Path(found["recording"])


def test_nothing_is_rendered_without_yes_where_nobody_can_be_asked(server: Server, tmp_path: Path) -> None:
    tasks = len(server.report()["tasks"])
    done = in_process("doctor", "--render", env=server.env, cwd=tmp_path)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert len(server.report()["tasks"]) == tasks


def test_nothing_is_rendered_while_a_check_fails(server: Server, tmp_path: Path) -> None:
    env = server.env | {"WIRO_API_SECRET": "another-secret"}
    done = in_process("doctor", "--render", "--yes", "--json", env=env, cwd=tmp_path)
    assert done.returncode == 4
    assert {line.get("check"): line for line in events_of(done.stdout)}["render"]["status"] == "skipped"


@pytest.mark.parametrize(("answer", "rendered"), [("n", 0), (None, 0), ("y", 1)])
def test_on_a_terminal_it_says_the_price_and_asks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, rendered: int
) -> None:
    from wan_async.cli.commands import doctor

    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr(doctor, "_can_ask", lambda _: True)
    tasks = len(server.report()["tasks"])
    done = in_process("doctor", "--render", "-o", tmp_path, env=server.env, cwd=tmp_path)
    assert done.returncode == 0
    (question,) = asked
    assert "$0.05" in question
    assert len(server.report()["tasks"]) == tasks + rendered
    assert len(list(tmp_path.glob("recording-*.jsonl"))) == rendered


def test_a_clip_and_its_recording_are_written_and_the_recording_holds_no_secret(
    server: Server, recording: Path
) -> None:
    text = recording.read_text(encoding="utf-8")
    (clip,) = recording.parent.glob("*.mp4")
    newest = server.report()["tasks"][-1]
    lines = [json.loads(line) for line in text.splitlines()]
    for secret in (server.info["api_key"], server.info["api_secret"], clip.read_bytes().hex()[:40]):
        assert secret not in text
    assert "x-signature" not in text
    assert "x-nonce" not in text
    run = next(line for line in lines if line.get("endpoint", "").startswith("/Run/"))
    assert run["answer"]["taskid"] == newest["id"]
    details = [line for line in lines if line.get("endpoint") == "/Task/Detail"]
    assert {line["request"]["tasktoken"] for line in details} == {run["answer"]["socketaccesstoken"]}
    assert re.fullmatch(r"token-\d+", run["answer"]["socketaccesstoken"])
    output = lines[-1]
    assert (output["kind"], output["bytes"]) == ("output", clip.stat().st_size)
    assert output["url"] == details[-1]["answer"]["tasklist"][0]["outputs"][0]["url"]
    assert recording.stat().st_mode & 0o077 == 0


def test_a_recording_can_be_replayed_as_a_server(recording: Path, tmp_path: Path) -> None:
    with replaying(recording) as replay:
        recorded = replay.run["request"]
        (tmp_path / "image.png").write_bytes(png())
        env = {"WIRO_API_KEY": "any-key", "WIRO_API_SECRET": "any-secret", "WIRO_BASE_URL": f"{replay.url}/v1"}
        words: list[str | Path] = ["-p", recorded["prompt"], "--seed", recorded["seed"], "-i", tmp_path / "image.png"]
        done = in_process("generate", *words, "--json", "-o", tmp_path / "again.mp4", env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        stored = next(line for line in events_of(done.stdout) if line["event"] == "stored")
        assert stored["cost_usd"] == "0.05"
        (clip,) = recording.parent.glob("*.mp4")
        assert (tmp_path / "again.mp4").stat().st_size == clip.stat().st_size
        (sent,) = replay.runs
        assert without_url(sent) == without_url(recorded)
        assert replay.unexpected == []


def without_url(form: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in form.items() if name != "inputImageUrl"}


def test_the_test_itself_passes_against_a_replay_of_it(recording: Path, tmp_path: Path) -> None:
    """Its first requests are those of `run`; `doctor` asks for the wallet besides, which is not in the recording."""
    with replaying(recording) as replay:
        env = {"WIRO_API_KEY": "any-key", "WIRO_API_SECRET": "any-secret", "WIRO_BASE_URL": f"{replay.url}/v1"}
        words: list[str | Path] = ["--render", "--yes", "--json", "-o", tmp_path / "second"]
        done = in_process("doctor", *words, env=env, cwd=tmp_path)
        found = {line.get("check"): line for line in events_of(done.stdout)}
        assert done.returncode == 0, done.stdout + done.stderr
        assert found["render"]["status"] == "ok"
        assert set(replay.unexpected) == {"/Wallet/List"}


def test_an_interrupted_render_is_finished_by_the_next_and_each_renders_a_clip_of_its_own(tmp_path: Path) -> None:
    words: list[str | Path] = ["--render", "--yes", "--json", "-o", tmp_path]
    with sandbox_server("--seconds", "2,2") as server:
        running = start("doctor", *words, env=server.env, cwd=tmp_path)
        assert running.stderr is not None
        while "accepted" not in running.stderr.readline():
            assert running.poll() is None
        for _ in range(2):
            running.send_signal(signal.SIGINT)
            running.stderr.readline()
        running.communicate(timeout=30)
        assert running.returncode == 130
        assert list(tmp_path.glob("*.mp4")) == []
        assert in_process("doctor", *words, env=server.env, cwd=tmp_path).returncode == 0
        assert (server.paid, len(list(tmp_path.glob("*.mp4")))) == (2, 2)


async def _exchange(recording: Recording, url: str, request: object, answer: object) -> None:
    inner = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    async with httpx.AsyncClient(transport=recording.wrapping(inner)) as client:
        await client.post(url, json=request)


@pytest.mark.virtual_time
async def test_tasks_of_others_unknown_texts_and_secrets_are_not_recorded() -> None:
    file = StringIO()
    recording = Recording(file, prompt="ours", base_url="https://api.example/v1", secrets=["the-key", "the-secret"])
    task = {
        "id": "7", "status": "task_cancel", "socketaccesstoken": "abc", "debugoutput": "their log", "owner": "Jane Doe",
        "outputs": [{"url": "https://cdn.example/their/private.mp4?x=1", "accesskey": "open-sesame"}],
    }  # fmt: skip
    theirs = {**task, "parameters": json.dumps({"prompt": "their idea", "inputImageUrl": "https://x.example/me.png"})}
    mine = {**task, "debugoutput": "sent with the-key", "parameters": {"prompt": "ours"}, "projectid": 4711}
    answer = {"result": True, "tasklist": [theirs, mine], "errors": [{"code": 0, "message": "the-secret is wrong"}]}
    await _exchange(recording, "https://api.example/v1/Task/List", {"tasktoken": "abc"}, answer)
    text = file.getvalue()
    for hidden in ("their", "Jane", "me.png", "open-sesame", "abc", "the-key", "the-secret", "4711", "private"):
        assert hidden not in text, hidden
    shown = json.loads(text)["answer"]["tasklist"][1]
    assert shown["parameters"] == {"prompt": "ours"}
    assert shown["debugoutput"] == "sent with secret-1"
    assert shown["owner"] == "<8 characters>"
    assert shown["outputs"][0]["url"].startswith("https://cdn.example/")
    assert shown["outputs"][0]["url"].endswith(".mp4")


@pytest.mark.virtual_time
async def test_a_page_and_a_failure_are_recorded_without_what_they_quote() -> None:
    file = StringIO()
    recording = Recording(file, prompt="ours", base_url="https://api.example/v1", secrets=["the-key"])

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("List"):
            return httpx.Response(403, text="<html>no access for the-key</html>")
        raise httpx.ConnectError("could not connect with the-key", request=request)

    async with httpx.AsyncClient(transport=recording.wrapping(httpx.MockTransport(respond))) as client:
        await client.post("https://api.example/v1/Task/List", json={})
        with pytest.raises(httpx.ConnectError):
            await client.get("https://cdn.example/clip.mp4")
    page, failure = map(json.loads, file.getvalue().splitlines())
    assert (page["status"], page["text"]) == (403, "<html>no access for secret-1</html>")
    assert (failure["kind"], failure["error"]) == ("failure", "ConnectError")
    assert "clip.mp4" not in failure["target"]
