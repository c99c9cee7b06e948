"""Settings from the environment and `.env`, the account that they select, and the local sandbox."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import filelock
import pytest

from wan_async.cli import api_settings, local_sandbox
from wan_async.errors import InvalidBatch, StopBatch, Unusable
from wan_async.wiro import protocol


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_key_there_is_no_account() -> None:
    assert api_settings.from_environment() is None
    with pytest.raises(StopBatch, match="WIRO_API_KEY") as caught:
        api_settings.required()
    assert caught.value.authentication


def test_the_account_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "key")
    found = api_settings.required()
    assert found == api_settings.Access(protocol.BASE_URL, "key", None, "https://api.wiro.ai:443", protocol.SOCKET_URL)
    monkeypatch.setenv("WIRO_API_SECRET", "hush")
    assert api_settings.required().secret == "hush"
    assert "hush" not in repr(api_settings.required())
    assert "'key'" not in repr(api_settings.required())


def test_a_custom_base_url_has_no_default_socket_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "key")
    monkeypatch.setenv("WIRO_BASE_URL", "http://127.0.0.1:9/v1")
    assert api_settings.required().socket_url is None
    monkeypatch.setenv("WIRO_SOCKET_URL", "ws://127.0.0.1:9/v1")
    assert api_settings.required().socket_url == "ws://127.0.0.1:9/v1"


def test_plain_http_is_refused_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "key")
    monkeypatch.setenv("WIRO_BASE_URL", "http://api.example/v1")
    with pytest.raises(InvalidBatch, match="WIRO_BASE_URL"):
        api_settings.required()


def test_a_dotenv_file_in_the_working_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WIRO_API_KEY=from-file\nWIRO_API_SECRET=hush\n")
    found = api_settings.required()
    assert (found.key, found.secret) == ("from-file", "hush")


def test_the_api_uses_the_base_url_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "key")
    monkeypatch.setenv("WIRO_BASE_URL", "http://127.0.0.1:9/v1")
    assert api_settings.required().api().base_url == "http://127.0.0.1:9/v1"


def test_the_own_sandbox_stores_its_state_beside_the_journal(tmp_path: Path) -> None:
    with local_sandbox.own_sandbox(tmp_path / "out") as access:
        assert access.origin == "the sandbox"
        assert access.base_url.startswith("http://127.0.0.1:")
        assert access.socket_url is not None
    assert (tmp_path / "out" / ".wan_async" / "sandbox" / "lock").exists()


def test_a_sandbox_that_waits_for_another_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_sandbox, "SILENT_SECONDS", 0.0)
    said = threading.Event()

    def say(text: str) -> None:
        print(text)
        said.set()

    monkeypatch.setattr(local_sandbox, "say", say)

    class Slow:
        def readline(self) -> str:
            assert said.wait(30)
            return json.dumps({"base_url": "http://127.0.0.1:1", "socket_url": "ws://127.0.0.1:1", "api_key": "k"})

    class Process:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.stdin, self.stdout = io.StringIO(), Slow()

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self, *_: Any) -> int:
            return 0

    for is_used, text in ((True, "another process has ended that uses the sandbox"), (False, "the sandbox to start")):
        said.clear()
        lock = filelock.FileLock(tmp_path / "lock")
        with lock if is_used else nullcontext(), local_sandbox.sandbox(tmp_path, cast("Any", Process)):
            pass
        assert text in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_refused_for_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Unusable, match="can't be written"), local_sandbox.own_sandbox(tmp_path / "out"):
        pass


def test_a_dotenv_file_holds_one_setting_per_line(tmp_path: Path) -> None:
    text = r"""# ours
A=1
 export B = two words  # not this
C="a \"b\"\n#c" # not this
D='$A ${A} \n'
E=
F=a#b
no setting
1X=2
G="open
H=#x
A=3
"""
    (tmp_path / ".env").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode() + b"I=\xff\n")
    assert api_settings.read_env(tmp_path) == {
        "A": "3",
        "B": "two words",
        "C": 'a "b"\n#c',
        "D": r"$A ${A} \n",
        "E": "",
        "F": "a#b",
        "1X": "2",
        "H": "#x",
        "I": "\ufffd",
    }


def test_a_missing_dotenv_or_a_folder_of_that_name_gives_no_settings(tmp_path: Path) -> None:
    assert api_settings.read_env(tmp_path) == {}
    (tmp_path / ".env").mkdir()
    assert api_settings.read_env(tmp_path) == {}


def test_an_unreadable_dotenv_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("A=1")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Unusable, match="Permission denied"):
        api_settings.read_env(tmp_path)


KEY, SECRET, BASE, SOCKET = api_settings.SETTINGS


@pytest.mark.parametrize(
    ("environ", "dotenv", "chosen"),
    [
        ({}, {}, {}),
        ({KEY: "e", "PATH": "x"}, {}, {KEY: "e"}),
        (
            {},
            {KEY: "d", SECRET: "s", BASE: "b", SOCKET: "w", "X": "y"},
            {KEY: "d", SECRET: "s", BASE: "b", SOCKET: "w"},
        ),
        ({KEY: "e"}, {KEY: "d", SECRET: "s", BASE: "b", SOCKET: "w"}, {KEY: "e"}),
        ({KEY: "e", SECRET: "t", BASE: "c"}, {KEY: "d", BASE: "b"}, {KEY: "e", SECRET: "t", BASE: "c"}),
        ({SECRET: "t"}, {KEY: "d", SECRET: "s", BASE: "b"}, {KEY: "d", SECRET: "t"}),
        ({KEY: "", BASE: "c"}, {KEY: "d", SECRET: "s", BASE: "b"}, {KEY: "d", SECRET: "s", BASE: "c"}),
        ({}, {SECRET: "s", BASE: "b"}, {}),
        ({}, {KEY: "", BASE: "b"}, {}),
    ],
)
def test_a_key_is_never_combined_with_a_secret_or_address_of_another_source(
    environ: dict[str, str], dotenv: dict[str, str], chosen: dict[str, str]
) -> None:
    assert api_settings.settings(environ, dotenv) == chosen


def test_without_a_dotenv_its_parser_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from wan_async.cli import api_settings\n"
        "api_settings.from_environment(); assert 'dotenv' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
