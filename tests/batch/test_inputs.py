"""Batches, folders and names as users have them: read as intended, or refused before anything is spent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pictures import gif, jpeg, png

from wan_async.batch import caption_lists
from wan_async.cli.main import main

PNG = png(bytes(24))
JPEG = jpeg()
HEIC = b"\0\0\0\x18ftypheic" + bytes(24)

Tree = Mapping[str, str | bytes]


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in a temporary folder and without an account, so that no price is requested."""
    monkeypatch.chdir(tmp_path)
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def write_tree(tree: Tree) -> None:
    for name, content in tree.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class Result:
    """The output and the exit code of a command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str) -> None:
        capsys.readouterr()
        self.code = main(list(argv))
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err

    @property
    def prompts(self) -> dict[str, str]:
        """The prompt of each clip by its name, from `plan --json`."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        return {line["name"]: line["prompt"] for line in lines if line["event"] == "job"}

    @property
    def warnings(self) -> list[str]:
        """The warnings of `plan --json`."""
        found: list[str] = json.loads(self.out.splitlines()[-1])["warnings"]
        return found


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return lambda *argv: Result(capsys, *argv)


def plan(cli: Cli, *argv: str) -> Result:
    return cli("plan", "--json", *argv)


def assert_refused(cli: Cli, tree: Tree, *argv: str, message: str) -> None:
    """Assert that `plan` and `run` exit with 2, print the message, and change no file."""
    write_tree(tree)
    for command in ("plan", "run"):
        result = cli(command, *argv)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
        assert result.err.endswith("nothing was spent\n")
    left = {str(path) for path in Path().rglob("*") if not path.is_dir()}
    assert left == set(tree)
    assert {name: Path(name).read_bytes() for name in tree} == {
        name: content.encode() if isinstance(content, str) else content for name, content in tree.items()
    }


RESULT = (
    '{"job": "1", "name": "cat", "state": "stored", "file": "cat.mp4", "task_id": "7", "sha256": "", "error": null}\n'
)
ONE = '{"prompt": "slow zoom", "id": "cat"}'


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"results.jsonl": "my own"}, "results.jsonl: exists and is not ours"),
        ({"results.jsonl": RESULT}, "results.jsonl: exists and is not ours"),
        ({"results.jsonl": ""}, "results.jsonl: exists and is not ours"),
        ({"results.jsonl.tmp": "my own"}, "results.jsonl.tmp: exists and is not ours"),
        ({"gallery.html": "<h1>Mine</h1>"}, "gallery.html: exists and is not ours"),
        ({".wan_async": "my own"}, ".wan_async: exists and is not ours"),
        ({"cat.mp4": "my own"}, 'b.jsonl:1:1: "cat.mp4" exists and is not ours'),
        ({"CAT.MP4": "my own"}, 'b.jsonl:1:1: "CAT.MP4" exists and is not ours'),
        ({"cat.json": '{"my": "metadata"}'}, 'b.jsonl:1:1: "cat.json" exists and is not ours'),
        ({"cat.json.tmp": "my own"}, 'b.jsonl:1:1: "cat.json.tmp" exists and is not ours'),
        ({"cat.7.part": "my own"}, 'b.jsonl:1:1: "cat.7.part" exists and is not ours'),
    ],
)
def test_no_file_of_a_user_is_overwritten(cli: Cli, tree: Tree, message: str) -> None:
    assert_refused(cli, {**tree, "b.jsonl": ONE}, "b.jsonl", "-o", ".", message=message)


def test_a_batch_file_is_never_overwritten(cli: Cli) -> None:
    assert_refused(
        cli, {"results.jsonl": ONE}, "results.jsonl", "-o", ".", message='a run into "." would write this file itself'
    )


def test_a_batch_file_named_like_a_sidecar_is_never_overwritten(cli: Cli) -> None:
    assert_refused(
        cli, {"cat.json": f"[{ONE}]"}, "cat.json", "-o", ".", message='a run into "." would write this file itself'
    )


def test_an_image_is_never_overwritten_through_any_path(cli: Cli, tmp_path: Path) -> None:
    batch = json.dumps({"prompt": "x", "id": "cat", "image": "sub/../cat.json"})
    assert_refused(
        cli,
        {"b.jsonl": batch, "cat.json": PNG, "sub/x": ""},
        "b.jsonl",
        "-o",
        str(tmp_path),
        message="would write this file itself",
    )


def test_existing_files_and_image_problems_are_reported_together(cli: Cli) -> None:
    write_tree({"b.jsonl": f'{ONE}\n{{"prompt": "x", "image": "gone.png"}}', "cat.mp4": "mine", "gone.json": "mine"})
    result = cli("run", "b.jsonl", "-o", ".")
    assert result.code == 2
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == [
        "b.jsonl:2:26", "b.jsonl:1:1", "b.jsonl:2:1", "nothing was spent",
    ]  # fmt: skip


def test_the_name_of_a_missing_image_is_refused_with_the_similar_one_of_its_folder(cli: Cli) -> None:
    write_tree({"p/cat.png": PNG, "p/cat.txt": "a cat", "b.json": json.dumps([{"image": "p/cta.png", "prompt": "x"}])})
    result = cli("plan", "b.json")
    assert result.code == 2
    assert result.err.splitlines()[0].endswith('cta.png" doesn\'t exist (did you mean "p/cat.png"?)')
    many = [{"image": f"p/cat{number}.png", "prompt": "x"} for number in range(12)]
    write_tree({"b.json": json.dumps(many)})
    assert cli("plan", "b.json").err.count("did you mean") == 10


def test_a_cut_image_is_reported_together_with_what_is_wrong_with_other_jobs(cli: Cli) -> None:
    write_tree(
        {
            "photos/cut.jpg": JPEG[:-20],
            "photos/cut.txt": "a",
            "photos/whole.jpg": JPEG,
            "b.csv": "image,prompt,seed\nphotos/cut.jpg,a,1\nphotos/whole.jpg,b,x\n",
        }
    )
    for batch, places in (
        ("photos", ["photos/cut.jpg", "photos/whole.jpg"]),
        ("b.csv", ["b.csv:2:image", "b.csv:3:seed"]),
    ):
        result = cli("plan", batch)
        assert result.code == 2
        assert [line.partition(": ")[0] for line in result.err.splitlines()] == [*places, "nothing was spent"]
        assert "is cut off: its end is missing" in result.err


def test_an_id_of_two_contents_is_reported_together_with_a_damaged_image(cli: Cli) -> None:
    jobs = "- {id: a, prompt: x}\n- {id: a, prompt: y}\n- {id: c, image: cut.jpg, prompt: z}\n"
    write_tree({"b.yaml": f'name: "{{index}}"\njobs:\n{jobs}', "cut.jpg": JPEG[:-20]})
    result = cli("plan", "b.yaml")
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == [
        "b.yaml:5:18", "b.yaml:4:3", "nothing was spent",
    ]  # fmt: skip


def test_a_name_that_the_locale_cannot_encode_is_reported_with_its_place(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))
    assert_refused(
        cli, {"b.jsonl": '{"prompt": "x", "id": "猫"}'}, "b.jsonl", message='b.jsonl:1:1: its clip\'s name "猫"'
    )


@pytest.mark.parametrize("output", ["x" * 300, "x/" * 2100, "a\0b"])
def test_an_impossible_output_folder_is_refused_from_the_batch_and_from_the_flag(cli: Cli, output: str) -> None:
    assert_refused(
        cli, {"b.json": json.dumps({"output": output, "jobs": [{"prompt": "x"}]})}, "b.json", message="b.json"
    )
    if "\0" not in output:
        assert cli("run", "b.json", "-o", output).code == 2


def test_an_empty_batch_argument_is_not_the_working_folder(cli: Cli) -> None:
    write_tree({"a.png": PNG, "a.txt": "a cat"})
    assert cli("run", "").code == 2


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("a cat yawns\r\n".encode("utf-16-le"), "a cat yawns"),
        ("a cat yawns\r\n".encode("utf-16-be"), "a cat yawns"),
        ("кот".encode("utf-16"), "кот"),
        ("кот".encode("utf-8-sig"), "кот"),
    ],
)
def test_captions_are_decoded_like_batch_files(cli: Cli, content: bytes, prompt: str) -> None:
    write_tree({"photos/a.png": PNG, "photos/a.txt": content})
    assert plan(cli, "photos").prompts == {"a": prompt}


@pytest.mark.parametrize(
    "content", [b"caf\xe9", "один кот и ещё один".encode("utf-16-le"), b"a\0 cat", "cat".encode("utf-32-le"), b"a\0"]
)
def test_a_caption_in_an_unknown_encoding_is_refused_with_advice(cli: Cli, content: bytes) -> None:
    if content == b"a\0":  # a letter in UTF-16
        write_tree({"photos/a.png": PNG, "photos/a.txt": content})
        assert plan(cli, "photos").prompts == {"a": "a"}
        return
    assert_refused(cli, {"photos/a.png": PNG, "photos/a.txt": content}, "photos", message="save the file as UTF-8")


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x92"])
def test_control_characters_are_refused_from_every_source(cli: Cli, char: str) -> None:
    prompt = f"a{char} cat"
    message = f"holds the control character U+{ord(char):04X}"
    assert_refused(
        cli, {"b.jsonl": json.dumps({"prompt": prompt})}, "b.jsonl", message=f"b.jsonl:1:12: jobs[0].prompt: {message}"
    )
    Path("b.jsonl").unlink()
    assert_refused(cli, {"b.json": json.dumps([{"prompt": "x", "negative_prompt": prompt}])}, "b.json", message=message)
    Path("b.json").unlink()
    if char != "\0":
        assert_refused(cli, {"p/a.png": PNG, "p/a.txt": prompt}, "p", message=message)
        assert cli("run", "p", "-p", prompt).code == 2
        assert cli("generate", "-p", prompt).code == 2


def test_tabs_and_line_breaks_are_allowed_in_prompts(cli: Cli) -> None:
    write_tree({"b.jsonl": json.dumps({"id": "a", "prompt": "a\tb\r\nc\nd"})})
    assert plan(cli, "b.jsonl").prompts == {"a": "a\tb\r\nc\nd"}


@pytest.mark.parametrize("prompt", ["\u200b", " \u2060\ufeff ", "\u3164", "\u2800\ufe0f", "\U000e0041"])
def test_a_prompt_of_invisible_characters_is_refused(cli: Cli, prompt: str) -> None:
    assert_refused(
        cli, {"b.jsonl": json.dumps({"prompt": prompt})}, "b.jsonl", message="nothing but invisible characters"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,negative_prompt,seed\nslow zoom, golden light\n", "the header has 3 columns, this row has 2"),
        ("prompt,seed\nslow zoom, golden light,3\n", "the header has 2 columns, this row has 3"),
        ("prompt,seed\nslow zoom\n", "the header has 2 columns, this row has 1"),
        ("prompt;seed\nslow;zoom;\n", "the header has 2 columns, this row has 3"),
        ("prompt,,seed\nslow zoom,golden light,3\n", "a column that the header doesn't name"),
    ],
)
def test_a_row_of_csv_that_does_not_fit_its_header_is_refused(cli: Cli, text: str, message: str) -> None:
    assert_refused(cli, {"b.csv": text}, "b.csv", message=message)
    assert cli("plan", "b.csv").err.startswith("b.csv:2: ")


@pytest.mark.parametrize("image", ["a slow dolly " * 30, "a?" * 200, "x/" * 3000, "./" + "y" * 256, "*" * 300])
def test_a_text_that_cannot_be_a_path_is_refused_as_an_image(cli: Cli, image: str) -> None:
    assert_refused(
        cli, {"b.json": json.dumps([{"image": image, "prompt": "valley.png"}])}, "b.json", message="b.json:1:"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://[your-bucket].s3.example.com/a.png", "http://[::1", "http://x]/a", "http://x:port/a", "http://x:99999/",
        "http://:80/", "http://x/\u0007", "https://[v1.a]/", "http://x:0/",
    ],
)  # fmt: skip
def test_invalid_urls_are_reported_together_with_other_problems(cli: Cli, url: str) -> None:
    jobs = [{"image": url, "prompt": "x"}, {"callback_url": url, "prompt": "x"}, {"prompt": "x", "seed": "s"}]
    assert_refused(cli, {"b.json": json.dumps(jobs)}, "b.json", message="jobs[2].seed")
    result = cli("plan", "b.json")
    assert len(result.err.splitlines()) == 4
    assert result.err.count("is not a URL") == 2


def test_only_a_leading_tilde_and_slash_mean_the_home_folder(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tree({"photos/~cat.png": PNG, "photos/~cat.txt": "a cat", "photos/dog.png": PNG, "photos/dog.txt": "a dog"})
    assert plan(cli, "photos").prompts == {"~cat": "a cat", "dog": "a dog"}
    write_tree({"photos/b.json": '[{"image": "*.png"}]', "photos/c.json": '[{"image": "~cat.png"}]'})
    assert plan(cli, "photos/b.json").prompts == {"~cat": "a cat", "dog": "a dog"}
    assert plan(cli, "photos/c.json").prompts == {"~cat": "a cat"}
    Path("photos").rename("photos[1]")
    monkeypatch.setenv("HOME", str(tmp_path / "photos[1]"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "photos[1]"))
    write_tree({"d.json": '[{"image": "~/~cat.png"}, {"image": "~/do*.png"}]'})
    assert plan(cli, "d.json").prompts == {"~cat": "a cat", "dog": "a dog"}


@pytest.mark.skipif(os.name == "nt", reason="on Windows names are UTF-16")
def test_a_file_name_that_is_not_utf_8_is_reported_with_escapes(cli: Cli) -> None:
    write_tree(
        {os.fsdecode(b"p/caf\xe9.png"): PNG, "p/dog.png": PNG, "b.json": '[{"image": "p/*.png", "prompt": "x"}]'}
    )
    for argv in (("p", "-p", "x"), ("b.json",)):
        for command in ("plan", "run"):
            result = cli(command, *argv)
            assert result.code == 2
            assert r"p/caf\xe9.png" in result.err
            assert "its name is not UTF-8; rename it" in result.err
            assert result.err.count("UTF-8") == 1
            assert result.err.endswith("nothing was spent\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes, and links need a privilege")
def test_a_search_terminates_and_lists_what_it_skips(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(
        {"p/sub/a.png": PNG, "p/b.png": PNG, "p/locked/c.png": PNG, "b.json": '[{"image": "p/**/*", "prompt": "x"}]'}
    )
    Path("p/sub/loop").symlink_to(Path("p").absolute())
    Path("p/loop").symlink_to(".")
    Path("p/gone.png").symlink_to("nowhere.png")
    Path("p/link.png").symlink_to("b.png")
    os.mkfifo("p/p.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):  # by hand, since root ignores permissions
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for argv in (("p", "-p", "x", "--recursive"), ("b.json",)):
        result = plan(cli, *argv)
        assert sorted(result.prompts) == ["a", "b", "link"]
        (warning,) = result.warnings
        assert result.err == f"note: {warning}\n"
        for name in ("p/sub/loop", "p/loop", "p/gone.png", "p/p.png", "p/locked"):
            assert f'"{name}"' in warning
    result = plan(cli, "p", "-p", "x")
    assert result.warnings[1:] == ["p: 1 more in 1 subfolder: --recursive takes them"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes")
def test_a_named_pipe_in_place_of_a_file_is_refused_without_blocking(cli: Cli) -> None:
    for name in ("b.yaml", "a.png", "c.txt", "d.html"):
        os.mkfifo(name)
    write_tree({"c.png": PNG, "x.json": '[{"image": "a.png", "prompt": "x"}, {"image": "c.png"}]'})
    for batch in ("b.yaml", "x.json"):
        result = cli("plan", batch)
        assert result.code == 2
        assert "is neither a file nor a folder" in result.err


def test_images_are_detected_by_their_bytes_and_other_files_are_reported(cli: Cli) -> None:
    write_tree({f"photos/{name}": JPEG for name in ("a.jpg", "b.jfif", "c.jpe", "d.jpg_large", "e")})
    write_tree({f"photos/{name}.txt": f"move {name}" for name in "abcde"})
    write_tree(
        {"photos/notes.md": "notes", "photos/clip.mp4": "clip", "photos/desktop.ini": "", "photos/alone.txt": "x"}
    )
    result = plan(cli, "photos")
    assert result.prompts == {name: f"move {name}" for name in "abcde"}
    assert result.warnings == [
        'photos: 3 left out: "photos/alone.txt", "photos/clip.mp4", "photos/notes.md" (not an image)',
    ]


def test_a_file_with_an_image_suffix_that_is_no_image_is_a_problem(cli: Cli) -> None:
    assert_refused(
        cli, {"p/a.png": PNG, "p/b.png": "hello"}, "p", "-p", "x", message='p/b.png: image: "p/b.png" is not an image'
    )


def test_subfolders_are_mentioned_and_included_only_with_recursive(cli: Cli) -> None:
    write_tree({"img/1.png": PNG, "img/1.txt": "x", "img/set2/2.png": PNG, "img/set2/2.txt": "y"})
    write_tree({"img/@eaDir/3.png": PNG, "img/out/.wan_async/x": "", "img/out/4.png": PNG})
    result = plan(cli, "img", "-p", "x")
    assert result.prompts == {"1": "x"}
    assert result.err == "note: img: 1 more in 1 subfolder: --recursive takes them\n"
    assert plan(cli, "img", "--recursive").prompts == {"1": "x", "2": "y"}
    again = cli("plan", "img/set2/..", "--recursive", "-p", "x")
    assert again.code == 0
    Path("img/1.png").unlink()
    result = cli("plan", "img", "-p", "x")
    assert result.code == 2
    assert "1 more in 1 subfolder: --recursive takes them" in result.err


def test_the_hint_about_subfolders_examines_a_bounded_number_of_entries(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_async.batch.images_in_folders.EXAMINED_ENTRIES", 2)
    write_tree({"img/1.png": PNG} | {f"img/{n}/{n}.png": PNG for n in range(9)})
    assert plan(cli, "img", "-p", "x").err == "note: img: 2 more in 2 subfolders: --recursive takes them\n"


def test_caption_files_may_have_several_names(cli: Cli) -> None:
    names = ["a.png.txt", "b.TXT", "c.caption", "d.txt", "e.PNG.caption"]
    write_tree({f"photos/{name}": f"text of {name}" for name in names})
    write_tree({f"photos/{name}": PNG for name in ("a.png", "b.png", "c.png", "d.png", "e.PNG")})
    result = plan(cli, "photos", "-p", "slow, {caption}")
    assert list(result.prompts.values()) == [f"slow, text of {name}" for name in names]
    assert result.warnings == []
    write_tree({"photos/a.txt": "another", "photos/d.caption": "another"})
    result = plan(cli, "photos")
    assert list(result.prompts.values()) == [f"text of {name}" for name in names]
    assert result.warnings == ['"photos/a.png.txt" is used as the caption, not "photos/a.txt", and so for 1 more']


def test_an_empty_caption_is_reported_as_empty(cli: Cli) -> None:
    assert_refused(
        cli, {"p/a.png": PNG, "p/a.txt": "\n"}, "p", message='p/a.png: prompt: is missing, and "p/a.txt" is empty'
    )
    assert cli("plan", "p", "-p", "x {caption}").code == 2
    assert plan(cli, "p", "-p", "x").prompts == {"a": "x"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a cat"}\n\n{"file_name": "sub/b.png", "prompt": "b"}\n'),
        ("metadata.csv", '"file_name","caption"\r\na.png,a cat\r\nsub/b.png,b\r\nc.png,\r\n'),
        ("metadata.csv", "file_name;seed;text\na.png;1;a cat\nsub/b.png;2;b\n"),
    ],
)
def test_captions_may_be_listed_in_a_metadata_file(cli: Cli, name: str, text: str) -> None:
    write_tree({"photos/a.png": PNG, "photos/sub/b.png": PNG, f"photos/{name}": text})
    assert plan(cli, "photos", "--recursive").prompts == {"a": "a cat", "b": "b"}
    write_tree({"photos/a.txt": "its own"})
    assert plan(cli, "photos").prompts == {"a": "its own"}


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file\n[]\n{"file_name": 5, "text": "x"}', [2, 3, 4]),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png", "text": "y"}', [2]),
        ("metadata.jsonl", "[" * 100_000, [1]),
        ("metadata.jsonl", b"\xff\n", [1]),
        ("metadata.csv", "file_name,text\na.png,slow, golden\nb.png", [2, 3]),
        ("metadata.csv", 'file_name,text\n"a', [2]),
    ],
)
def test_each_problem_in_a_metadata_file_is_reported_once(
    cli: Cli, name: str, text: str | bytes, places: list[int]
) -> None:
    write_tree({"p/a.png": PNG, "p/b.png": PNG, f"p/{name}": text})
    result = cli("plan", "p")
    assert result.code == 2
    places_found = [line.split(":")[:2] for line in result.err.splitlines()[:-1]]
    assert places_found == [[f"p/{name}", str(place)] for place in places]


def test_a_metadata_file_that_is_too_large_or_cannot_be_read_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree({"p/a.png": PNG, "p/metadata.jsonl": '{"file_name": "a.png", "text": "x"}\n'})
    with monkeypatch.context() as patch:
        patch.setattr(caption_lists, "LIST_LIMIT_BYTES", 20)
        assert cli("plan", "p").err.startswith("p/metadata.jsonl: is larger than")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caption_lists, "open_file", refuse)
    refused = cli("plan", "p")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "p/metadata.jsonl: can't be read: Permission denied")


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("metadata.csv", "file_name,text\na.png,x\na.png,y\n", ("2", "3")),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name": "./a.png", "text": "y"}\n', ("1", "2")),
    ],
)
def test_two_texts_for_one_image_are_refused_with_both_places_and_a_command_that_renders_both(
    cli: Cli, name: str, text: str, places: tuple[str, str]
) -> None:
    write_tree({"p/a.png": PNG, f"p/{name}": text})
    refused = cli("plan", "p")
    first, second = (f"p/{name}:{line}" for line in places)
    assert refused.code == 2
    assert refused.err.startswith(f"{second}: ")
    assert f" at {first}" in refused.err
    assert f'run "p/{name}" itself' in refused.err
    assert sorted(plan(cli, f"p/{name}").prompts.values()) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("metadata.jsonl", '{"camera": "X"}\n'), ("metadata.jsonl", "5"), ("metadata.csv", "camera,text\nX,y\n")],
)
def test_a_metadata_file_without_captions_is_ignored(cli: Cli, name: str, text: str) -> None:
    write_tree({"p/a.png": PNG, f"p/{name}": text})
    assert plan(cli, "p", "-p", "x").prompts == {"a": "x"}


def test_images_with_the_same_stem_get_distinct_names(cli: Cli) -> None:
    write_tree(
        {"photos/IMG_1.HEIC": HEIC, "photos/IMG_1.JPG": JPEG, "photos/IMG_2.JPG": JPEG, "photos/IMG_1.txt": "a beach"}
    )
    write_tree(
        {"photos/IMG_2.txt": "a hill", "b.json": '[{"image": "photos/IMG_1*", "id": "x", "prompt": "{stem} {id}"}]'}
    )
    assert plan(cli, "photos").prompts == {"IMG_1-heic": "a beach", "IMG_1-jpg": "a beach", "IMG_2": "a hill"}
    assert plan(cli, "b.json").prompts == {
        "x-IMG_1-heic": "IMG_1-heic x-IMG_1-heic",
        "x-IMG_1-jpg": "IMG_1-jpg x-IMG_1-jpg",
    }
    write_tree({f"img/{name}": PNG for name in ("10_cat/1.png", "10_dog/1.png", "10_dog/1.webp", "1.png")})
    assert list(plan(cli, "img", "-p", "x", "--recursive").prompts) == [
        "1",
        "10_cat-1",
        "10_dog-1-png",
        "10_dog-1-webp",
    ]


def test_names_that_cannot_be_made_distinct_are_reported_with_both_files_and_a_fix(cli: Cli) -> None:
    write_tree({"p/a.png": PNG, "p/a.gif": gif(), "p/a-png.png": PNG})
    result = cli("plan", "p", "-p", "x")
    assert result.code == 2
    assert 'p/a.png: its clip would be called "a-png", as that of p/a-png.png; rename one of them' in result.err


def test_system_generated_folders_are_skipped(cli: Cli) -> None:
    made = ["@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "__MACOSX/b.jpg", ".thumbnails/c.jpg", "#recycle/d.jpg", ".e/e.jpg"]
    write_tree({f"p/{name}": JPEG for name in ["a.jpg", *made]} | {"b.json": '[{"image": "**/*.jpg", "prompt": "x"}]'})
    write_tree(
        {
            "c.json": '[{"image": "p/*/*.jpg", "prompt": "x"}]',
            "d.json": '[{"image": "p/#recycle/*.jpg", "prompt": "x"}]',
        }
    )
    assert list(plan(cli, "b.json").prompts) == ["a"]
    assert list(plan(cli, "p", "--recursive", "-p", "x").prompts) == ["a"]
    assert cli("plan", "c.json").code == 2
    assert list(plan(cli, "d.json").prompts) == ["d"]


def test_a_pattern_that_equals_a_file_name_means_that_file_and_bracket_patterns_are_reported(cli: Cli) -> None:
    tree: Tree = {"b.json": '[{"image": "cat[1].png", "prompt": "x"}]', "cat1.png": PNG}
    assert_refused(
        cli, tree, "b.json", message='jobs[0].image: "cat[1].png" doesn\'t exist (as a pattern it matches "cat1.png"'
    )
    write_tree({"cat[1].png": PNG, "cat2.png": PNG, "c.json": '[{"image": "cat[12].png", "prompt": "x"}]'})
    assert list(plan(cli, "b.json").prompts) == ["cat[1]"]
    result = plan(cli, "c.json")
    assert list(result.prompts) == ["cat1", "cat2"]
    assert result.warnings == ['"cat[12].png" is taken for a pattern']


def test_placeholders_are_replaced(cli: Cli) -> None:
    jobs = [
        {"id": "k", "image": "cat.png", "prompt": "{caption}|{stem}|{id}|{index}|{index:03}|{seed}", "seed": "007"},
        {"image": "cat.png", "prompt": "{id}", "negative_prompt": "no {stem}", "matrix": {"seed": [1, 2]}},
        {"id": "t", "prompt": "{id} of {seed}"},
    ]
    write_tree({"cat.png": PNG, "cat.txt": "a {seed} cat", "b.json": json.dumps(jobs)})
    result = plan(cli, "b.json")
    assert list(result.prompts.values()) == ["a {seed} cat|cat|k|1|001|7", "cat-1", "cat-2", "t of 42"]
    assert result.warnings == []
    assert [json.loads(line)["negative_prompt"] for line in result.out.splitlines()[:3]] == ["", "no cat", "no cat"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{captoin}", "{caption}"), ("{Caption}", "{caption}"), ("{ caption }", "{caption}"),
        ("{CAPTION}", "{caption}"), ("{{caption}}", "{caption}"), ("${caption}", "{caption}"), ("{Stem}", "{stem}"),
        ("{stme}", "{stem}"), ("{ID}", "{id}"), ("{indx}", "{index}"), ("{index:3}", "{index}"), ("{sed}", "{seed}"),
        ("{seed:04}", "{seed}"),
    ],
)  # fmt: skip
def test_a_misspelt_placeholder_is_refused_with_a_suggestion(cli: Cli, written: str, meant: str) -> None:
    where = json.dumps({"jobs": [{"prompt": f"a {written} b"}]})
    assert_refused(
        cli, {"b.json": where}, "b.json", message=f'b.json:1:22: jobs[0].prompt: "{written}" is not a placeholder (did'
    )
    assert f'(did you mean "{meant}"?)' in cli("plan", "b.json").err
    for document in ({"defaults": {"prompt": written}, "jobs": [{}]}, [{"matrix": {"negative_prompt": [written]}}]):
        write_tree({"b.json": json.dumps(document)})
        assert "did you mean" in cli("plan", "b.json").err
    write_tree({"p/a.png": PNG, "p/a.txt": "a"})
    result = cli("plan", "p", "-p", f"{{caption}} {written}")
    assert (result.code, result.err.splitlines()[0].partition(":")[0]) == (2, "--prompt")
    assert len(result.err.splitlines()) == 2


def test_other_text_in_braces_is_sent_unchanged_with_one_warning(cli: Cli) -> None:
    prompts = ["{red|blue} {a}", "{red|blue} {b} {} {", "{step by step}", '{"json": 1}', "{e}"]
    write_tree({"b.jsonl": "\n".join(json.dumps({"id": f"j{n}", "prompt": text}) for n, text in enumerate(prompts))})
    result = plan(cli, "b.jsonl")
    assert list(result.prompts.values()) == prompts
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith(
        'in prompts, "{red|blue}", "{a}", "{b}", "{}", "{step by step}" and 2 more are sent'
    )


@pytest.mark.parametrize("field", ["stem", "id", "caption"])
def test_a_placeholder_without_a_value_is_refused(cli: Cli, field: str) -> None:
    write_tree(
        {"b.json": json.dumps([{"prompt": f"{{{field}}}"}, {"image": "http://x/y.png", "prompt": "{stem} {id}"}])}
    )
    result = cli("plan", "b.json")
    assert result.code == 2
    assert result.err.startswith(f"b.json:1:13: jobs[0].prompt: there is no {{{field}}}: the job has n")


def test_the_value_of_a_placeholder_may_not_hold_control_characters(cli: Cli) -> None:
    jobs = [{"image": "http://x/a%07.png", "prompt": "{stem}"}]
    assert_refused(
        cli, {"b.json": json.dumps(jobs)}, "b.json", message="jobs[0].prompt: holds the control character U+0007"
    )
