"""Defaults of flags from settings files and the environment, and messages about misspelled flags."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from servers import events_of, in_process, write_batch

from wan_async.cli.arguments import make_parser
from wan_async.cli.settings_files import user_file, with_defaults
from wan_async.errors import InvalidBatch


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "user" / "config.toml"
    path.parent.mkdir()
    path.write_text("")
    monkeypatch.setenv("WAN_ASYNC_CONFIG", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def defaults_of(*argv: str) -> dict[str, object]:
    import argparse

    return vars(with_defaults(make_parser().parse_args(argv, argparse.Namespace(typed=list(argv)))))


def test_a_switch_that_a_file_turns_on_can_be_turned_off(user: Path) -> None:
    user.write_text("no-prepare = true\n")
    with pytest.raises(InvalidBatch, match="is no flag that can be set here"):
        defaults_of("run", "b.yaml")
    user.write_text("prepare = true\n")
    assert defaults_of("run", "b.yaml")["prepare"] is True
    assert defaults_of("run", "b.yaml", "--no-prepare")["prepare"] is False


def test_a_flag_wins_over_the_environment_and_that_over_the_files(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tmp_path / "batches" / "b.yaml"
    batch.parent.mkdir()
    words = ("run", str(batch))
    assert defaults_of(*words)["downloads"] == 8
    user.write_text('downloads = 1\nconcurrency = 5\nbudget = "12.50"\nverbose = 1\nyes = true\n')
    found = defaults_of(*words)
    assert (found["downloads"], found["concurrency"], found["budget"]) == (1, 5, Decimal("12.50"))
    assert (found["verbose"], found["yes"]) == (1, True)
    (batch.parent / "wan-async.toml").write_text('downloads = 2\nconfirm-above = 3\nconcurrency = "auto"\n')
    found = defaults_of(*words)
    assert (found["downloads"], found["confirm_above"], found["concurrency"]) == (2, Decimal(3), None)
    monkeypatch.setenv("WAN_ASYNC_DOWNLOADS", "3")
    assert defaults_of(*words)["downloads"] == 3
    found = defaults_of(*words, "--downloads", "4")
    assert found["downloads"] == 4
    assert found["defaults_from"] == {
        "downloads": "environment",
        "budget": str(user),
        "verbose": str(user),
        "yes": str(user),
        "confirm_above": str(batch.parent / "wan-async.toml"),
        "concurrency": str(batch.parent / "wan-async.toml"),
    }
    assert defaults_of("plan", str(batch))["downloads"] == 3
    assert defaults_of("generate", "-p", "x")["budget"] == Decimal("12.50")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("concurency = 3", 'did you mean "concurrency"'),
        ("downloads = 0", "'0' is not a whole number from 1 on"),
        ("yes = 'maybe'", "is not true or false"),
        ("upload = 'ftp'", "is not allowed"),
        ("retries = [1]", "is not a single value"),
        ("rerender = true", "give it as a flag"),
        ("api_key = 'hush-hush'", "in the environment or in .env"),
        ("wiro-api-secret = 'hush-hush'", "in the environment or in .env"),
        ("broken", "can't be read"),
    ],
)
def test_what_a_file_must_not_hold_is_refused(line: str, message: str, user: Path, tmp_path: Path) -> None:
    user.write_text(line)
    done = in_process("plan", write_batch(tmp_path, [{"prompt": "x"}]))
    assert done.returncode == 2
    assert message in done.stderr
    assert str(user) in done.stderr
    assert "hush-hush" not in done.stderr


def test_an_unknown_variable_and_a_lost_file_are_refused(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAN_ASYNC_BUGDET", "5")
    with pytest.raises(InvalidBatch, match="WAN_ASYNC_BUGDET"):
        defaults_of("run", "b.yaml")
    monkeypatch.delenv("WAN_ASYNC_BUGDET")
    monkeypatch.setenv("WAN_ASYNC_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(InvalidBatch, match="nowhere"):
        defaults_of("run", "b.yaml")


def test_the_users_file_is_in_the_configuration_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_file() is None
    monkeypatch.delenv("WAN_ASYNC_CONFIG")
    found = user_file()
    assert found is not None
    assert found.parts[-2:] == ("wan-async", "config.toml")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("run", "x", "--concurency", "4"), "did you mean --concurrency?"),
        (("plan", "x", "--buget=4"), "did you mean --budget?"),
        (("generate", "--promt", "x"), "did you mean --prompt?"),
        (("task", "list", "--orphan", "x"), "did you mean --orphans?"),
    ],
)
def test_a_misspelled_flag_gets_a_suggestion(words: tuple[str, ...], hint: str) -> None:
    done = in_process(*words)
    assert done.returncode == 2
    assert hint in done.stderr.splitlines()[-1]


def test_a_wrong_flag_with_json_ends_with_finished() -> None:
    done = in_process("run", "x", "--json", "--nonesuch")
    problem, finished = events_of(done.stdout)
    assert (problem["event"], "--nonesuch" in problem["message"]) == ("problem", True)
    assert (finished["event"], finished["exit_code"], done.returncode) == ("finished", 2, 2)
