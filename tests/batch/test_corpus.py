"""Inputs as people write them, and what `plan` makes of each: `tests/data/inputs`."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pictures import gif, heic, jpeg, png, webp

from wan_async.cli.main import main

FOLDER = Path(__file__).parents[1] / "data" / "inputs"
CASES: list[dict[str, Any]] = [
    {**case, "file": path.stem}
    for path in sorted(FOLDER.glob("*.yaml"))
    for case in yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
]
KEYS = {"case", "file", "files", "stdin", "plan", "jobs", "fields", "problems", "notes"}


def content(written: str | dict[str, str]) -> bytes:
    """The bytes that an entry stands for."""
    if isinstance(written, dict):
        ((how, text),) = written.items()
        if how == "hex":
            return bytes.fromhex(text)
        if how == "cut":
            whole = content(text)
            return whole[: len(whole) * 2 // 3]
        return text.encode(how)
    if not (written.startswith("<") and written.endswith(">") and "\n" not in written and "/" not in written):
        return written.encode()
    kind, _, argument = written[1:-1].partition(" ")
    match kind:
        case "png":
            width, _, height = (argument or "640x480").partition("x")
            return png(width=int(width), height=int(height))
        case "jpeg":
            return jpeg(orientation=int(argument) if argument else None)
        case "gif":
            return gif(int(argument))
        case "webp":
            return webp()
        case "heic":
            return heic()
    raise AssertionError(written)


def test_the_corpus_is_large_and_holds_no_misspelled_keys() -> None:
    assert len(CASES) >= 120
    assert {key for case in CASES for key in case} == KEYS
    names = [(case["file"], case["case"]) for case in CASES]
    assert len(names) == len(set(names))


def assert_matches(found: list[str], expected: list[str]) -> None:
    """Assert that each line begins and goes on as the corpus says."""
    told = "\n".join(found)
    assert len(found) == len(expected), told
    for line, wanted in zip(found, expected, strict=True):
        start, words = wanted.split(" ~ ")
        assert line.startswith(start), told
        assert words in line, told


@pytest.mark.parametrize("case", CASES, ids=[f"{case['file']}: {case['case']}" for case in CASES])
def test_an_input_becomes_the_expected_jobs_or_problems(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, written in case.get("files", {}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(written))
    if "stdin" in case:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content(case["stdin"]))))
    before = sorted(tmp_path.rglob("*"))

    code = main(["plan", "--json", *shlex.split(case["plan"])])

    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert "Traceback" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before
    problems = [f"{line['where']}: {line['message']}" for line in lines if line["event"] == "problem"]
    if case.get("problems"):
        assert code == 2
        assert_matches(problems, case["problems"])
        return
    assert (code, problems) == (0, []), captured.err
    jobs = [line for line in lines if line["event"] == "job"]
    if "jobs" in case:
        assert {job["name"]: job["prompt"] for job in jobs} == case["jobs"]
    else:
        assert [{key: job[key] for key in wanted} for job, wanted in zip(jobs, case["fields"], strict=True)] == case[
            "fields"
        ]
    assert_matches(lines[-1]["warnings"], case.get("notes", []))
