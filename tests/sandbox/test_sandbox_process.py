"""The sandbox as a process: flags, announcement, state folder, end."""

from __future__ import annotations

import argparse
import io
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
from sandbox_client import RUN, signed

from wan_async.cli.arguments import make_parser
from wan_async.sandbox import process
from wan_async.sandbox.faults import FAULTS
from wan_async.sandbox.flags import add_arguments, settings_of
from wan_async.sandbox.settings import Settings


class Running:
    """A sandbox in a separate process, and a client."""

    def __init__(self, process: subprocess.Popen[str], http: httpx.Client, address: dict[str, Any]) -> None:
        self.process, self.http, self.address = process, http, address
        self.root = address["base_url"].removesuffix("/v1")

    def post(self, endpoint: str, nonce: str | None = None, **fields: object) -> httpx.Response:
        return self.http.post(f"{self.address['base_url']}/{endpoint}", json=fields, headers=signed(nonce=nonce))

    def start(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.post(RUN, prompt="x").json()
        assert answer["result"] is True, answer
        return answer

    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = self.http.get(f"{self.root}/sandbox/account").json()
        return content

    def control(self, **wanted: object) -> None:
        self.http.post(f"{self.root}/sandbox/control", json=wanted).raise_for_status()

    def stop(self, name: str) -> tuple[int, str]:
        """Send a signal; return the exit code and the text of standard error."""
        self.process.send_signal(getattr(signal, name))
        assert self.process.stderr is not None
        return self.process.wait(20), self.process.stderr.read()


def popen(*flags: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wan_async.sandbox", "--clips", "tiny", "--seconds", "0", "--exit-with-stdin"]
    return subprocess.Popen(
        [*command, *map(str, flags)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def running(*flags: str | Path) -> Iterator[Running]:
    with popen(*flags) as started, httpx.Client(trust_env=False, verify=False) as http:
        assert started.stdout is not None
        assert started.stdin is not None
        try:
            yield Running(started, http, json.loads(started.stdout.readline()))
        finally:
            started.stdin.close()
            started.wait(20)


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


# Flags


def test_every_flag_sets_its_setting(tmp_path: Path) -> None:
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


def test_the_default_flags_are_the_default_settings() -> None:
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
def test_an_invalid_flag_is_refused(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(*flags)
    assert refused.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err


def test_the_help_explains_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
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


def free_port() -> int:
    """A free port below the ephemeral range, so that no other process is given it meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there is no free port")


def test_it_prints_its_address_in_one_line_and_ends_at_a_signal() -> None:
    port = free_port()
    with running("--port", str(port), "--key-only") as it:
        assert it.address == {
            "base_url": f"http://127.0.0.1:{port}/v1",
            "socket_url": f"ws://127.0.0.1:{port}/v1",
            "api_key": "sandbox-key",
            "api_secret": None,
        }
        listed = it.http.post(f"{it.address['base_url']}/Task/List", json={}, headers={"x-api-key": "sandbox-key"})
        assert listed.status_code == 200
        if sys.platform != "win32":
            assert it.stop("SIGINT") == (0, "")
    assert it.process.returncode == 0


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with popen("--port", port) as it:
            output, errors = it.communicate(timeout=30)
    assert (it.returncode, output) == (6, "")
    assert errors.splitlines()[-1].startswith(f"port {port} cannot be used: ")
    assert "Traceback" not in errors


def test_a_killed_sandbox_continues_with_its_state(tmp_path: Path) -> None:
    flags = ("--state", tmp_path / "deep" / "state", "--strict-nonce")
    with running(*flags) as it:
        first = it.start()
        url = it.post("Task/Detail", nonce="1734513807", taskid=first["taskid"]).json()["tasklist"][0]["outputs"][0][
            "url"
        ]
        clip = it.http.get(url).content
        it.control(balance_usd=3.0)
        it.process.kill()
        it.process.wait()
    with running(*flags) as it:
        (task,) = it.post("Task/Detail", tasktoken=first["socketaccesstoken"]).json()["tasklist"]
        assert it.http.get(task["outputs"][0]["url"]).content == clip
        assert it.post("Task/List", nonce="1734513807").status_code == 401, "the nonce was used before the restart"
        assert it.post("Task/List", nonce="1734513806").status_code == 200, "nonces need not increase"
        assert int(it.start()["taskid"]) == int(first["taskid"]) + 1
        report = it.report()
        assert (report["balance_usd"], report["spent_usd"], len(report["tasks"])) == (2.95, 0.1, 2)
        if sys.platform != "win32":
            assert it.stop("SIGTERM") == (0, "")


def test_a_state_folder_in_use_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOCK_TIMEOUT_SECONDS", 0.01)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with filelock.FileLock(tmp_path / "lock"):
        assert process.main(["--state", str(tmp_path)]) == 6
    assert str(tmp_path) in errors.getvalue()


def test_an_unusable_state_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("here")
    assert process.main(["--state", str(tmp_path / "file" / "state")]) == 6
    assert str(tmp_path / "file" / "state") in capsys.readouterr().err
    (tmp_path / "sandbox.sqlite3").write_bytes(b"this is no database, " * 100)
    assert process.main(["--state", str(tmp_path)]) == 6
    assert "file is not a database" in capsys.readouterr().err


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
    address = json.loads(capsys.readouterr().out)
    assert address["api_secret"] == "sandbox-secret"
    with sqlite3.connect(tmp_path / "sandbox.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM starts").fetchone() == (1,)
    database.close()


def test_the_renderer_can_import_the_main_module_without_starting_a_server() -> None:
    assert import_module("wan_async.sandbox.__main__").main is process.main


def test_a_closed_standard_input_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: int, __: int) -> bytes:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(os, "read", read)
    stop = threading.Event()
    process._wait_for_end(stop)
    assert stop.is_set()
