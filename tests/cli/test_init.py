"""`init`: a batch file for a folder of images, that `plan` accepts or names the gaps of."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import heic, jpeg, png

from wan_async.batch.schema import schema
from wan_async.batch.starter_file import Entry, starter
from wan_async.cli.main import main
from wan_async.domain.model import WAN

Told = tuple[int, str, str]
Cli = Callable[..., Told]


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*argv: str) -> Told:
        capsys.readouterr()
        code = main(list(argv))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def write(files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def planned(cli: Cli, file: str) -> dict[str, str]:
    """The prompt of each job that `plan` accepts."""
    code, out, err = cli("plan", "--json", file)
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    return {line["name"]: line["prompt"] for line in lines if line["event"] == "job"}


def test_with_captions_the_file_can_be_planned_at_once(cli: Cli) -> None:
    write(
        {"photos/a.jpg": jpeg(), "photos/a.txt": 'a "cat"\nasleep: #1', "photos/b.png": png(), "photos/b.caption": "b"}
    )
    code, out, _ = cli("init", "photos")
    assert (code, out.startswith("photos.yaml: 2 jobs, every prompt from its caption")) == (0, True)
    text = Path("photos.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=wan-async.schema.json\n")
    assert json.loads(Path("wan-async.schema.json").read_text()) == schema()
    assert planned(cli, "photos.yaml") == {"a": 'a "cat"\nasleep: #1', "b": "b"}


def test_every_commented_field_is_valid_once_its_comment_is_taken_away(cli: Cli) -> None:
    write({"photos/a.jpg": jpeg(), "photos/a.txt": "a"})
    cli("init", "photos")
    lines = Path("photos.yaml").read_text().splitlines()
    active = [
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and ": " in line else line for line in lines[6:]
    ]
    Path("photos.yaml").write_text("\n".join(active))
    found = yaml.safe_load("\n".join(active))
    assert set(found["defaults"]) == set(WAN.by_name) - {"prompt", "image"}
    assert planned(cli, "photos.yaml") == {"a-1": "a", "a-2": "a"}
    assert found["output"] == "outputs/photos"


def test_without_captions_plan_names_the_prompts_to_fill_in(cli: Cli) -> None:
    write({"photos/a.jpg": jpeg(), "photos/b.jpg": jpeg(orientation=6), "photos/b.txt": "b"})
    code, out, _ = cli("init", "photos")
    assert (code, "1 prompt to fill in" in out) == (0, True)
    code, _, err = cli("plan", "photos.yaml")
    lines = Path("photos.yaml").read_text().splitlines()
    line = next(number for number, line in enumerate(lines, 1) if 'prompt: ""' in line)
    assert (code, err.splitlines()[0].startswith(f"photos.yaml:{line}:13: jobs[0].prompt: ")) == (2, True)
    Path("photos.yaml").write_text(Path("photos.yaml").read_text().replace('prompt: ""', 'prompt: "a"'))
    assert planned(cli, "photos.yaml") == {"a": "a", "b": "b"}


def test_nothing_is_overwritten(cli: Cli) -> None:
    write({"photos/a.jpg": jpeg(), "photos.yaml": "mine"})
    code, _, err = cli("init", "photos")
    assert (code, err.startswith("photos.yaml: exists already")) == (2, True)
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "photos.yaml"]
    write({"wan-async.schema.json": "mine"})
    code, _, err = cli("init", "photos", "-o", "b.yaml")
    assert (code, err.startswith("wan-async.schema.json: exists already")) == (2, True)
    assert Path("photos.yaml").read_text() == Path("wan-async.schema.json").read_text() == "mine"
    Path("wan-async.schema.json").unlink()
    assert cli("init", "photos", "-o", "b.yaml")[0] == 0
    assert cli("init", "photos", "-o", "c.yaml")[0] == 0  # the schema is the same


def test_of_the_working_folder_the_file_is_in_it(cli: Cli) -> None:
    write({"a.jpg": jpeg(), "a.txt": "a"})
    assert cli("init")[0] == 0
    assert planned(cli, "batch.yaml") == {"a": "a"}


def test_paths_are_from_the_folder_of_the_file(cli: Cli) -> None:
    write({"photos/sub/a.jpg": jpeg(), "photos/sub/a.txt": "a", "batches/x": ""})
    code, _, err = cli("init", "photos")
    assert (code, "no images" in err) == (2, True)
    assert cli("init", "photos", "--recursive", "-o", "batches/b.yaml")[0] == 0
    assert yaml.safe_load(Path("batches/b.yaml").read_text())["jobs"] == [
        {"image": "../photos/sub/a.jpg", "prompt": "a"}
    ]
    assert planned(cli, "batches/b.yaml") == {"a": "a"}


def test_images_of_one_name_get_ids(cli: Cli) -> None:
    write({"photos/a.HEIC": heic(), "photos/a.JPG": jpeg(), "photos/a.txt": "a"})
    assert cli("init", "photos")[0] == 0
    assert planned(cli, "photos.yaml") == {"a-heic": "a", "a-jpg": "a"}


def test_braces_of_a_caption_are_sent_as_they_are(cli: Cli) -> None:
    write({"photos/a.jpg": jpeg(), "photos/a.txt": "a {stem} and a {captoin}"})
    assert cli("init", "photos")[0] == 0
    assert planned(cli, "photos.yaml") == {"a": "a {stem} and a {captoin}"}


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"photos/a.jpg": jpeg(), "photos/a.txt": b"caf\xe9"}, "photos/a.jpg: its caption"),
        ({"photos/a.jpg": jpeg(), "photos/a.txt": "a\x01"}, "photos/a.jpg: its caption"),
        ({"photos/a.jpg": jpeg(), "photos/metadata.jsonl": '{"file_name": 1, "text": "x"}'}, "photos/metadata.jsonl:1"),
        ({"photos/notes.md": "x"}, "photos: there are no images"),
        ({"photos": "a file"}, "photos: is no folder"),
        ({"other": ""}, "photos: there is no such folder"),
    ],
)
def test_what_is_in_the_way_is_named(cli: Cli, files: dict[str, Any], where: str) -> None:
    write(files)
    code, _, err = cli("init", "photos")
    assert (code, err.startswith(where)) == (2, True), err
    assert not Path("photos.yaml").exists()


def test_a_folder_that_can_not_be_written_is_an_error_of_the_environment(cli: Cli) -> None:
    write({"photos/a.jpg": jpeg(), "file": "x"})
    code, _, err = cli("init", "photos", "-o", "file/b.yaml")
    assert (code, "can't be written" in err) == (6, True)


CAPTIONS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "\x00" not in text)
NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=12)


@given(NAMES, CAPTIONS)
@example("http:", "x")
@example("~", "x")
@example("data:", "x")
@example("a[1]*?", "{caption}")
@example("a", "\u0085 \ufeff \U000e0001 x")
def test_any_name_and_caption_gives_a_file_that_reads_back(name: str, caption: str) -> None:
    entry = Entry(f"{name}.png", caption, name)
    text = starter([entry], WAN, schema="s.json", file="b.yaml", output="o")
    (job,) = yaml.safe_load(text)["jobs"]
    assert (job["prompt"], job["id"]) == (caption, name)
    assert job["image"].removeprefix("./") == f"{name}.png"
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        (folder / "photos").mkdir()
        (folder / "photos" / f"{name}.png").write_bytes(png())
        (folder / "photos" / f"{name}.txt").write_text(caption, encoding="utf-8")
        code = main(["init", str(folder / "photos")])
        assert code == (0 if (folder / "photos.yaml").exists() else 2)
        if code == 0:
            assert main(["plan", str(folder / "photos.yaml")]) in (0, 2)
    finally:
        shutil.rmtree(folder)


def test_a_damaged_image_is_a_comment(cli: Cli) -> None:
    write({"photos/a.png": png(), "photos/a.txt": "a", "photos/b.png": png()[:-20], "photos/b.txt": "b"})
    code, out, err = cli("init", "photos")
    assert (code, "photos.yaml: 1 job, every prompt from its caption" in out) == (0, True)
    assert 'note: "photos/b.png" is cut off: its end is missing: its job is a comment\n' in err
    assert planned(cli, "photos.yaml") == {"a": "a"}
    text = Path("photos.yaml").read_text()
    assert '  # "photos/b.png" is cut off' in text
    Path("photos/b.png").write_bytes(png(b"b"))
    start = text.index("  # - image")
    Path("photos.yaml").write_text(text[:start] + text[start:].replace("  # ", "  "))
    assert planned(cli, "photos.yaml") == {"a": "a", "b": "b"}, "the job is there once the # is taken away"
    Path("photos/a.png").write_bytes(b"no image")
    Path("photos/b.png").write_bytes(b"no image")
    Path("photos.yaml").unlink()
    assert cli("init", "photos")[0] == 2
    assert not Path("photos.yaml").exists()
