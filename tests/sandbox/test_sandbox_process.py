"""The sandbox as a process: its flags, its one line, its folder, its end."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import filelock
import httpx
import pytest

from wan_async.cli.arguments import make_parser
from wan_async.sandbox import process
from wan_async.sandbox.faults import FAULTS
from wan_async.sandbox.flags import add_arguments, settings_of
from wan_async.sandbox.model_description import MODEL
from wan_async.sandbox.settings import Settings

nonces = itertools.count(1_900_000_000_000_000)


def signed(nonce: str | None = None) -> dict[str, str]:
    nonce = nonce or str(next(nonces))
    signature = hmac.new(b"sandbox-key", f"sandbox-secret{nonce}".encode(), hashlib.sha256).hexdigest()
    return {"x-api-key": "sandbox-key", "x-nonce": nonce, "x-signature": signature}


class Running:
    """A sandbox in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], told: dict[str, Any]) -> None:
        self.process, self.told = process, told

    def post(self, endpoint: str, nonce: str | None = None, **fields: object) -> httpx.Response:
        return httpx.post(f"{self.told['base_url']}/{endpoint}", json=fields, headers=signed(nonce), trust_env=False)

    def start(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.post(f"Run/{MODEL}", prompt="x").json()
        assert answer["result"] is True, answer
        return answer

    def report(self) -> dict[str, Any]:
        root = self.told["base_url"].removesuffix("/v1")
        content: dict[str, Any] = httpx.get(f"{root}/sandbox/account", trust_env=False).json()
        return content

    def control(self, **wanted: object) -> None:
        root = self.told["base_url"].removesuffix("/v1")
        httpx.post(f"{root}/sandbox/control", json=wanted, trust_env=False).raise_for_status()


def popen(*flags: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wan_async.sandbox", "--clips", "tiny", "--seconds", "0", "--exit-with-stdin"]
    return subprocess.Popen(
        [*command, *map(str, flags)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def running(*flags: str | Path) -> Iterator[Running]:
    with popen(*flags) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        try:
            yield Running(started, json.loads(started.stdout.readline()))
        finally:
            started.stdin.close()
            started.wait(20)


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


# Flags


def test_the_flags_become_the_settings_they_name(tmp_path: Path) -> None:
    flags = (
        "--seed 5 --balance 7.5 --price 0.2 --limit 3 --seconds 1.5,2 --clip-bytes 900 --key-only --latency 0.25 "
        "--echo string --list-page-cap 7 --visible-after 2 --fault drop-before=0.05 --fault http_500@Task/List=1"
    )
    settings = settings_of(parse(*flags.split(), "--state", str(tmp_path)))
    assert (settings.seed, settings.balance_usd, settings.concurrency_limit) == (5, 7.5, 3)
    assert set(settings.prices.values()) == {0.2}
    assert (settings.task_seconds, settings.clip_bytes, settings.latency_seconds) == ((1.5, 2.0), 900, 0.25)
    assert (settings.api_secret, settings.echo, settings.list_page_cap) == (None, "string", 7)
    assert (settings.visible_after_seconds, settings.state) == (2.0, tmp_path)
    assert settings.faults == {"drop_before": 0.05, "http_500@Task/List": 1.0}
    flags = (
        "--socket-format id --no-projectid --uploads refuse --denial not-exist --refuse-runs suspended "
        "--strict-nonce --first-task-id 9 --teammates 2 --minimum 0.5 --task-error-seconds 4 --late-charge-seconds 5 "
        "--late-outputs-seconds 6 --late-cdn-seconds 7 --denied-seconds 8"
    )
    settings = settings_of(parse(*flags.split()))
    assert (settings.socket_format, settings.show_projectid, settings.uploads) == ("id", False, "refuse")
    assert (settings.denial, settings.refusal, settings.strict_nonce) == ("not-exist", "suspended", True)
    assert (settings.first_task_id, settings.teammates, settings.minimum_usd) == (9, 2, 0.5)
    assert (settings.task_error_seconds, settings.late_charge_seconds, settings.late_outputs_seconds) == (4, 5, 6)
    assert (settings.late_cdn_seconds, settings.denied_seconds) == (7, 8)


def test_without_flags_it_is_a_project_with_signatures_and_nothing_goes_wrong() -> None:
    settings = settings_of(parse())
    assert (settings.api_secret, settings.faults, settings.state) == ("sandbox-secret", {}, None)
    assert settings.prices == {"480P": 0.05, "580P": 0.08, "720P": 0.12}
    assert settings_of(parse("--seconds", "3")).task_seconds == (3.0, 3.0)
    usual = Settings()
    given = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    assert given == {name: getattr(usual, name) for name in given}


@pytest.mark.parametrize(
    "flags",
    [
        ("--port", "65536"), ("--port", "-1"), ("--port", "x"), ("--seconds", "5,3"), ("--seconds", "x"),
        ("--seconds", "nan"), ("--seconds", "1,inf"), ("--balance", "nan"), ("--balance", "-1"), ("--limit", "-1"),
        ("--latency", "inf"), ("--clip-bytes", "-1"), ("--fault", "explode=1"), ("--fault", "drop-before"),
        ("--fault", "drop-before=x"), ("--fault", "drop-before=1.5"), ("--fault", "drop-before=nan"),
        ("--fault", "vanish@Run=1"), ("--fault", "drop-before@run=1"), ("--echo", "loud"),
        ("--socket-format", "ids"), ("--uploads", "no"), ("--denial", "x"), ("--refuse-runs", "x"),
        ("--late-cdn-seconds", "inf"), ("--teammates", "-1"), ("--first-task-id", "x"),
    ],
)  # fmt: skip
def test_a_flag_that_makes_no_sense_is_refused(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(*flags)
    assert refused.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err


def test_the_help_says_what_each_fault_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        process.main(["--help"])
    plain = " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        make_parser().parse_args(["sandbox", "--help"])
    rich = " ".join(capsys.readouterr().out.split())
    for text in (plain, rich):
        for name, kind in FAULTS.items():
            assert f" {name.replace('_', '-')} {kind.effect}" in text


# The process


def test_it_tells_where_it_is_in_one_line_and_ends_with_its_standard_input() -> None:
    with running() as it:
        assert set(it.told) == {"base_url", "socket_url", "api_key", "api_secret"}
        assert it.told["socket_url"] == it.told["base_url"].replace("http://", "ws://")
        assert it.post("Task/List").status_code == 200
    assert it.process.returncode == 0
    assert it.process.stdout is not None
    assert it.process.stderr is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_quietly(name: str) -> None:
    with running() as it:
        it.process.send_signal(getattr(signal, name))
        assert it.process.wait(20) == 0
        assert it.process.stderr is not None
        assert "Traceback" not in it.process.stderr.read()


def test_a_key_only_project_is_told_as_one() -> None:
    with running("--key-only") as it:
        assert it.told["api_secret"] is None
        answer = httpx.post(
            f"{it.told['base_url']}/Task/List", json={}, headers={"x-api-key": it.told["api_key"]}, trust_env=False
        )
        assert answer.status_code == 200


def test_a_port_in_use_is_said_and_is_no_success() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with popen("--port", port) as it:
            told, said = it.communicate(timeout=30)
    assert (it.returncode, told) == (6, "")
    assert said.splitlines()[-1].startswith(f"port {port} can't be used: ")
    assert "Traceback" not in said


def free_port() -> int:
    """One from below those that systems give to whoever asks for any: nobody takes it meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there is no free port")


def test_a_port_that_is_asked_for_is_the_port() -> None:
    port = free_port()
    with running("--port", str(port)) as it:
        assert it.told["base_url"] == f"http://127.0.0.1:{port}/v1"


# --state


def test_what_was_killed_goes_on_as_the_same_service(tmp_path: Path) -> None:
    with running("--state", tmp_path / "deep" / "state") as it:
        first = it.start()
        url = it.post("Task/Detail", taskid=first["taskid"]).json()["tasklist"][0]["outputs"][0]["url"]
        clip = httpx.get(url, trust_env=False).content
        it.process.kill()
        it.process.wait()
    with running("--state", tmp_path / "deep" / "state") as it:
        (task,) = it.post("Task/Detail", tasktoken=first["socketaccesstoken"]).json()["tasklist"]
        assert httpx.get(task["outputs"][0]["url"], trust_env=False).content == clip
        second = it.start()
        assert int(second["taskid"]) == int(first["taskid"]) + 1
        assert it.report()["spent_usd"] == 0.1
        it.control(balance_usd=3.0)
        it.process.kill()
        it.process.wait()
    with running("--state", tmp_path / "deep" / "state") as it:
        assert it.report()["balance_usd"] == 3.0
        assert len(it.report()["tasks"]) == 2


def test_a_nonce_that_was_used_before_a_restart_is_refused_after_it(tmp_path: Path) -> None:
    with running("--state", tmp_path, "--strict-nonce") as it:
        assert it.post("Task/Detail", nonce="1734513807").status_code == 200
    with running("--state", tmp_path, "--strict-nonce") as it:
        assert it.post("Task/Detail", nonce="1734513807").status_code == 401
        assert it.post("Task/Detail", nonce="1734513806").status_code == 200, "a nonce need not be the highest"


def test_a_restart_meets_other_faults_than_the_start_before(tmp_path: Path) -> None:
    def met(state: Path) -> list[int]:
        with running("--state", state, "--fault", "http-500=0.5") as it:
            return [it.post("Task/Detail").status_code for _ in range(16)]

    first = met(tmp_path / "a")
    assert met(tmp_path / "b") == first, "from its seed alone"
    second = met(tmp_path / "a")
    assert second != first
    assert met(tmp_path / "b") == second, "and from the number of its starts"


def test_two_sandboxes_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOCK_TIMEOUT_SECONDS", 0.01)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with filelock.FileLock(tmp_path / "lock"):
        assert process.main(["--state", str(tmp_path)]) == 6
    assert errors.getvalue() == f"another sandbox keeps its state in {tmp_path}\n"


def test_a_folder_that_can_not_be_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("here")
    assert process.main(["--state", str(tmp_path / "file" / "state")]) == 6
    assert capsys.readouterr().err.startswith(f"the state in {tmp_path / 'file' / 'state'} can't be used: ")
    (tmp_path / "sandbox.sqlite3").write_bytes(b"this is no database, " * 100)
    assert process.main(["--state", str(tmp_path)]) == 6
    assert "can't be used: file is not a database" in capsys.readouterr().err


# In this process


def test_main_serves_until_its_standard_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    given = iter([b"ignored", b""])
    listens = threading.Event()

    def read(_: int, __: int) -> bytes:
        listens.wait(20)
        return next(given)

    def tell(text: str, *, flush: bool) -> None:
        assert flush
        sys.stdout.write(text + "\n")
        listens.set()

    monkeypatch.setattr(process, "print", tell, raising=False)
    monkeypatch.setattr(os, "read", read)
    try:
        assert process.main(["--exit-with-stdin", "--clips", "tiny", "--state", str(tmp_path)]) == 0
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)
    told = json.loads(capsys.readouterr().out)
    assert told["api_secret"] == "sandbox-secret"
    with sqlite3.connect(tmp_path / "sandbox.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM starts").fetchone() == (1,)
    database.close()


def test_the_clip_worker_s_process_can_import_it_without_starting_another() -> None:
    assert import_module("wan_async.sandbox.__main__").main is process.main


def test_a_standard_input_that_was_never_there_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: int, __: int) -> bytes:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(os, "read", read)
    stop = threading.Event()
    process._wait_for_end(stop)
    assert stop.is_set()
