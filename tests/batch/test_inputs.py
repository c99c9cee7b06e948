"""Batches, folders and names as people have them: read as they were meant, or refused before anything is spent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from wan_async.cli.main import main

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
JPEG = b"\xff\xd8\xff\xe0" + bytes(24)
HEIC = b"\0\0\0\x18ftypheic" + bytes(24)

Tree = Mapping[str, str | bytes]


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths begin in the test's own folder; no account, so that no price is asked for."""
    monkeypatch.chdir(tmp_path)
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def lay(tree: Tree) -> None:
    for name, content in tree.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.code = main(list(words))
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err

    @property
    def prompts(self) -> dict[str, str]:
        """The prompt of each clip, by its name (of `plan --json`)."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        return {line["name"]: line["prompt"] for line in lines if line["event"] == "job"}

    @property
    def warnings(self) -> list[str]:
        """What `plan --json` warns of."""
        found: list[str] = json.loads(self.out.splitlines()[-1])["warnings"]
        return found


Says = Callable[..., Said]


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    return lambda *words: Said(capsys, *words)


def plan(says: Says, *words: str) -> Said:
    return says("plan", "--json", *words)


def refused(says: Says, tree: Tree, *words: str, told: str) -> None:
    """Both `plan` and `run` exit with 2, say what is wrong, and leave every file as it was."""
    lay(tree)
    for command in ("plan", "run"):
        said = says(command, *words)
        assert (said.code, said.out) == (2, "")
        assert told in said.err
        assert said.err.endswith("nothing was spent\n")
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
    ("tree", "told"),
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
def test_no_file_of_a_user_is_overwritten(says: Says, tree: Tree, told: str) -> None:
    refused(says, {**tree, "b.jsonl": ONE}, "b.jsonl", "-o", ".", told=told)


def test_a_batch_file_is_never_overwritten(says: Says) -> None:
    refused(
        says, {"results.jsonl": ONE}, "results.jsonl", "-o", ".", told='a run into "." would write this file itself'
    )


def test_a_batch_file_named_like_a_sidecar_is_never_overwritten(says: Says) -> None:
    refused(says, {"cat.json": f"[{ONE}]"}, "cat.json", "-o", ".", told='a run into "." would write this file itself')


def test_an_image_is_never_overwritten_through_any_path(says: Says, tmp_path: Path) -> None:
    batch = json.dumps({"prompt": "x", "id": "cat", "image": "sub/../cat.json"})
    refused(
        says,
        {"b.jsonl": batch, "cat.json": PNG, "sub/x": ""},
        "b.jsonl",
        "-o",
        str(tmp_path),
        told="would write this file itself",
    )


def test_existing_files_and_image_problems_are_reported_together(says: Says) -> None:
    lay({"b.jsonl": f'{ONE}\n{{"prompt": "x", "image": "gone.png"}}', "cat.mp4": "mine", "gone.json": "mine"})
    said = says("run", "b.jsonl", "-o", ".")
    assert said.code == 2
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == [
        "b.jsonl:2:1", "b.jsonl:1:1", "b.jsonl:2:1", "nothing was spent",
    ]  # fmt: skip


def test_a_name_that_the_locale_cannot_encode_is_reported_with_its_place(
    says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))
    refused(says, {"b.jsonl": '{"prompt": "x", "id": "猫"}'}, "b.jsonl", told='b.jsonl:1:1: its clip\'s name "猫"')


@pytest.mark.parametrize("output", ["x" * 300, "x/" * 2100, "a\0b"])
def test_an_impossible_output_folder_is_refused_from_the_batch_and_from_the_flag(says: Says, output: str) -> None:
    refused(says, {"b.json": json.dumps({"output": output, "jobs": [{"prompt": "x"}]})}, "b.json", told="b.json")
    if "\0" not in output:
        assert says("run", "b.json", "-o", output).code == 2


def test_an_empty_batch_argument_is_not_the_working_folder(says: Says) -> None:
    lay({"a.png": PNG, "a.txt": "a cat"})
    assert says("run", "").code == 2


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("a cat yawns\r\n".encode("utf-16-le"), "a cat yawns"),
        ("a cat yawns\r\n".encode("utf-16-be"), "a cat yawns"),
        ("кот".encode("utf-16"), "кот"),
        ("кот".encode("utf-8-sig"), "кот"),
    ],
)
def test_captions_are_decoded_like_batch_files(says: Says, content: bytes, prompt: str) -> None:
    lay({"photos/a.png": PNG, "photos/a.txt": content})
    assert plan(says, "photos").prompts == {"a": prompt}


@pytest.mark.parametrize(
    "content", [b"caf\xe9", "один кот и ещё один".encode("utf-16-le"), b"a\0 cat", "cat".encode("utf-32-le"), b"a\0"]
)
def test_a_caption_in_an_unknown_encoding_is_refused_with_advice(says: Says, content: bytes) -> None:
    if content == b"a\0":  # a letter in UTF-16
        lay({"photos/a.png": PNG, "photos/a.txt": content})
        assert plan(says, "photos").prompts == {"a": "a"}
        return
    refused(says, {"photos/a.png": PNG, "photos/a.txt": content}, "photos", told="save the file as UTF-8")


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x92"])
def test_control_characters_are_refused_from_every_source(says: Says, char: str) -> None:
    prompt = f"a{char} cat"
    told = f"holds the control character U+{ord(char):04X}"
    refused(says, {"b.jsonl": json.dumps({"prompt": prompt})}, "b.jsonl", told=f"b.jsonl:1:12: jobs[0].prompt: {told}")
    Path("b.jsonl").unlink()
    refused(says, {"b.json": json.dumps([{"prompt": "x", "negative_prompt": prompt}])}, "b.json", told=told)
    Path("b.json").unlink()
    if char != "\0":
        refused(says, {"p/a.png": PNG, "p/a.txt": prompt}, "p", told=told)
        assert says("run", "p", "-p", prompt).code == 2
        assert says("generate", "-p", prompt).code == 2


def test_tabs_and_line_breaks_are_allowed_in_prompts(says: Says) -> None:
    lay({"b.jsonl": json.dumps({"id": "a", "prompt": "a\tb\r\nc\nd"})})
    assert plan(says, "b.jsonl").prompts == {"a": "a\tb\r\nc\nd"}


@pytest.mark.parametrize("prompt", ["\u200b", " \u2060\ufeff ", "\u3164", "\u2800\ufe0f", "\U000e0041"])
def test_a_prompt_of_invisible_characters_is_refused(says: Says, prompt: str) -> None:
    refused(says, {"b.jsonl": json.dumps({"prompt": prompt})}, "b.jsonl", told="nothing but invisible characters")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,negative_prompt,seed\nslow zoom, golden light\n", "the header has 3 columns, this row has 2"),
        ("prompt,seed\nslow zoom, golden light,3\n", "the header has 2 columns, this row has 3"),
        ("prompt,seed\nslow zoom\n", "the header has 2 columns, this row has 1"),
        ("prompt;seed\nslow;zoom;\n", "the header has 2 columns, this row has 3"),
        ("prompt,,seed\nslow zoom,golden light,3\n", "a column that the header doesn't name"),
    ],
)
def test_a_row_of_csv_that_does_not_fit_its_header_is_refused(says: Says, text: str, told: str) -> None:
    refused(says, {"b.csv": text}, "b.csv", told=told)
    assert says("plan", "b.csv").err.startswith("b.csv:2: ")


@pytest.mark.parametrize("image", ["a slow dolly " * 30, "a?" * 200, "x/" * 3000, "./" + "y" * 256, "*" * 300])
def test_a_text_that_cannot_be_a_path_is_refused_as_an_image(says: Says, image: str) -> None:
    refused(says, {"b.json": json.dumps([{"image": image, "prompt": "valley.png"}])}, "b.json", told="b.json:1:")


@pytest.mark.parametrize(
    "url",
    [
        "https://[your-bucket].s3.example.com/a.png", "http://[::1", "http://x]/a", "http://x:port/a", "http://x:99999/",
        "http://:80/", "http://x/\u0007", "https://[v1.a]/", "http://x:0/",
    ],
)  # fmt: skip
def test_invalid_urls_are_reported_together_with_other_problems(says: Says, url: str) -> None:
    jobs = [{"image": url, "prompt": "x"}, {"callback_url": url, "prompt": "x"}, {"prompt": "x", "seed": "s"}]
    refused(says, {"b.json": json.dumps(jobs)}, "b.json", told="jobs[2].seed")
    said = says("plan", "b.json")
    assert len(said.err.splitlines()) == 4
    assert said.err.count("is not a URL") == 2


def test_only_a_leading_tilde_and_slash_mean_the_home_folder(
    says: Says, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lay({"photos/~cat.png": PNG, "photos/~cat.txt": "a cat", "photos/dog.png": PNG, "photos/dog.txt": "a dog"})
    assert plan(says, "photos").prompts == {"~cat": "a cat", "dog": "a dog"}
    lay({"photos/b.json": '[{"image": "*.png"}]', "photos/c.json": '[{"image": "~cat.png"}]'})
    assert plan(says, "photos/b.json").prompts == {"~cat": "a cat", "dog": "a dog"}
    assert plan(says, "photos/c.json").prompts == {"~cat": "a cat"}
    Path("photos").rename("photos[1]")
    monkeypatch.setenv("HOME", str(tmp_path / "photos[1]"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "photos[1]"))
    lay({"d.json": '[{"image": "~/~cat.png"}, {"image": "~/do*.png"}]'})
    assert plan(says, "d.json").prompts == {"~cat": "a cat", "dog": "a dog"}


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_a_file_name_that_is_not_utf_8_is_reported_with_escapes(says: Says) -> None:
    lay({os.fsdecode(b"p/caf\xe9.png"): PNG, "p/dog.png": PNG, "b.json": '[{"image": "p/*.png", "prompt": "x"}]'})
    for words in (("p", "-p", "x"), ("b.json",)):
        for command in ("plan", "run"):
            said = says(command, *words)
            assert said.code == 2
            assert r"p/caf\xe9.png" in said.err
            assert "its name is not UTF-8; rename it" in said.err
            assert len(said.err.splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="there are neither links nor pipes for everybody")
def test_a_search_terminates_and_lists_what_it_skips(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    lay({"p/sub/a.png": PNG, "p/b.png": PNG, "p/locked/c.png": PNG, "b.json": '[{"image": "p/**/*", "prompt": "x"}]'})
    Path("p/sub/loop").symlink_to(Path("p").absolute())
    Path("p/loop").symlink_to(".")
    Path("p/gone.png").symlink_to("nowhere.png")
    Path("p/link.png").symlink_to("b.png")
    os.mkfifo("p/p.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):  # root may read everything
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for words in (("p", "-p", "x", "--recursive"), ("b.json",)):
        said = plan(says, *words)
        assert sorted(said.prompts) == ["a", "b", "link"]
        (warning,) = said.warnings
        assert said.err == f"note: {warning}\n"
        for name in ("p/sub/loop", "p/loop", "p/gone.png", "p/p.png", "p/locked"):
            assert f'"{name}"' in warning
    said = plan(says, "p", "-p", "x")
    assert said.warnings[1:] == ["p: 1 more in 1 subfolder: --recursive takes them"]


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes with names")
def test_a_named_pipe_in_place_of_a_file_is_refused_without_blocking(says: Says) -> None:
    for name in ("b.yaml", "a.png", "c.txt", "d.html"):
        os.mkfifo(name)
    lay({"c.png": PNG, "x.json": '[{"image": "a.png", "prompt": "x"}, {"image": "c.png"}]'})
    for batch in ("b.yaml", "x.json"):
        said = says("plan", batch)
        assert said.code == 2
        assert "is neither a file nor a folder" in said.err


def test_images_are_detected_by_their_bytes_and_other_files_are_reported(says: Says) -> None:
    lay({f"photos/{name}": JPEG for name in ("a.jpg", "b.jfif", "c.jpe", "d.jpg_large", "e")})
    lay({f"photos/{name}.txt": f"move {name}" for name in "abcde"})
    lay({"photos/notes.md": "notes", "photos/clip.mp4": "clip", "photos/desktop.ini": "", "photos/alone.txt": "x"})
    said = plan(says, "photos")
    assert said.prompts == {name: f"move {name}" for name in "abcde"}
    assert said.warnings == [
        'photos: 3 left out: "photos/alone.txt", "photos/clip.mp4", "photos/notes.md" (not an image)',
    ]


def test_a_file_with_an_image_suffix_that_is_no_image_is_a_problem(says: Says) -> None:
    refused(
        says, {"p/a.png": PNG, "p/b.png": "hello"}, "p", "-p", "x", told='p/b.png: image: "p/b.png" is not an image'
    )


def test_subfolders_are_mentioned_and_included_only_with_recursive(says: Says) -> None:
    lay({"img/1.png": PNG, "img/1.txt": "x", "img/set2/2.png": PNG, "img/set2/2.txt": "y"})
    lay({"img/@eaDir/3.png": PNG, "img/out/.wan_async/x": "", "img/out/4.png": PNG})
    said = plan(says, "img", "-p", "x")
    assert said.prompts == {"1": "x"}
    assert said.err == "note: img: 1 more in 1 subfolder: --recursive takes them\n"
    assert plan(says, "img", "--recursive").prompts == {"1": "x", "2": "y"}
    refused_words = says("plan", "img/set2/..", "--recursive", "-p", "x")
    assert refused_words.code == 0
    Path("img/1.png").unlink()
    said = says("plan", "img", "-p", "x")
    assert said.code == 2
    assert "1 more in 1 subfolder: --recursive takes them" in said.err


def test_the_hint_about_subfolders_examines_a_bounded_number_of_entries(
    says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_async.batch.folders.EXAMINED_ENTRIES", 2)
    lay({"img/1.png": PNG} | {f"img/{n}/{n}.png": PNG for n in range(9)})
    assert plan(says, "img", "-p", "x").err == "note: img: 2 more in 2 subfolders: --recursive takes them\n"


def test_caption_files_may_have_several_names(says: Says) -> None:
    names = ["a.png.txt", "b.TXT", "c.caption", "d.txt", "e.PNG.caption"]
    lay({f"photos/{name}": f"text of {name}" for name in names})
    lay({f"photos/{name}": PNG for name in ("a.png", "b.png", "c.png", "d.png", "e.PNG")})
    said = plan(says, "photos", "-p", "slow, {caption}")
    assert list(said.prompts.values()) == [f"slow, text of {name}" for name in names]
    assert said.warnings == []
    lay({"photos/a.txt": "another", "photos/d.caption": "another"})
    said = plan(says, "photos")
    assert list(said.prompts.values()) == [f"text of {name}" for name in names]
    assert said.warnings == ['"photos/a.png.txt" is used as the caption, not "photos/a.txt", and so for 1 more']


def test_an_empty_caption_is_reported_as_empty(says: Says) -> None:
    refused(says, {"p/a.png": PNG, "p/a.txt": "\n"}, "p", told='p/a.png: prompt: is missing, and "p/a.txt" is empty')
    assert says("plan", "p", "-p", "x {caption}").code == 2
    assert plan(says, "p", "-p", "x").prompts == {"a": "x"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a cat"}\n\n{"file_name": "sub/b.png", "prompt": "b"}\n'),
        ("metadata.csv", '"file_name","caption"\r\na.png,a cat\r\nsub/b.png,b\r\nc.png,\r\n'),
        ("metadata.csv", "file_name;seed;text\na.png;1;a cat\nsub/b.png;2;b\n"),
    ],
)
def test_captions_may_be_listed_in_a_metadata_file(says: Says, name: str, text: str) -> None:
    lay({"photos/a.png": PNG, "photos/sub/b.png": PNG, f"photos/{name}": text})
    assert plan(says, "photos", "--recursive").prompts == {"a": "a cat", "b": "b"}
    lay({"photos/a.txt": "its own"})
    assert plan(says, "photos").prompts == {"a": "its own"}


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
    says: Says, name: str, text: str | bytes, places: list[int]
) -> None:
    lay({"p/a.png": PNG, "p/b.png": PNG, f"p/{name}": text})
    said = says("plan", "p")
    assert said.code == 2
    told = [line.split(":")[:2] for line in said.err.splitlines()[:-1]]
    assert told == [[f"p/{name}", str(place)] for place in places]


@pytest.mark.parametrize(
    ("name", "text"),
    [("metadata.jsonl", '{"camera": "X"}\n'), ("metadata.jsonl", "5"), ("metadata.csv", "camera,text\nX,y\n")],
)
def test_a_metadata_file_without_captions_is_ignored(says: Says, name: str, text: str) -> None:
    lay({"p/a.png": PNG, f"p/{name}": text})
    assert plan(says, "p", "-p", "x").prompts == {"a": "x"}


def test_images_with_the_same_stem_get_distinct_names(says: Says) -> None:
    lay({"photos/IMG_1.HEIC": HEIC, "photos/IMG_1.JPG": JPEG, "photos/IMG_2.JPG": JPEG, "photos/IMG_1.txt": "a beach"})
    lay({"photos/IMG_2.txt": "a hill", "b.json": '[{"image": "photos/IMG_1*", "id": "x", "prompt": "{stem} {id}"}]'})
    assert plan(says, "photos").prompts == {"IMG_1-heic": "a beach", "IMG_1-jpg": "a beach", "IMG_2": "a hill"}
    assert plan(says, "b.json").prompts == {
        "x-IMG_1-heic": "IMG_1-heic x-IMG_1-heic",
        "x-IMG_1-jpg": "IMG_1-jpg x-IMG_1-jpg",
    }
    lay({f"img/{name}": PNG for name in ("10_cat/1.png", "10_dog/1.png", "10_dog/1.webp", "1.png")})
    assert list(plan(says, "img", "-p", "x", "--recursive").prompts) == [
        "1",
        "10_cat-1",
        "10_dog-1-png",
        "10_dog-1-webp",
    ]


def test_names_that_cannot_be_made_distinct_are_reported_with_both_files_and_a_fix(says: Says) -> None:
    lay({"p/a.png": PNG, "p/a.gif": b"GIF89a" + bytes(20), "p/a-png.png": PNG})
    said = says("plan", "p", "-p", "x")
    assert said.code == 2
    assert 'p/a.png: its clip would be called "a-png", as that of p/a-png.png; rename one of them' in said.err


def test_system_generated_folders_are_skipped(says: Says) -> None:
    made = ["@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "__MACOSX/b.jpg", ".thumbnails/c.jpg", "#recycle/d.jpg", ".e/e.jpg"]
    lay({f"p/{name}": JPEG for name in ["a.jpg", *made]} | {"b.json": '[{"image": "**/*.jpg", "prompt": "x"}]'})
    lay(
        {
            "c.json": '[{"image": "p/*/*.jpg", "prompt": "x"}]',
            "d.json": '[{"image": "p/#recycle/*.jpg", "prompt": "x"}]',
        }
    )
    assert list(plan(says, "b.json").prompts) == ["a"]
    assert list(plan(says, "p", "--recursive", "-p", "x").prompts) == ["a"]
    assert says("plan", "c.json").code == 2
    assert list(plan(says, "d.json").prompts) == ["d"]


def test_a_pattern_that_equals_a_file_name_means_that_file_and_bracket_patterns_are_reported(says: Says) -> None:
    tree: Tree = {"b.json": '[{"image": "cat[1].png", "prompt": "x"}]', "cat1.png": PNG}
    refused(says, tree, "b.json", told='jobs[0].image: "cat[1].png" doesn\'t exist (as a pattern it matches "cat1.png"')
    lay({"cat[1].png": PNG, "cat2.png": PNG, "c.json": '[{"image": "cat[12].png", "prompt": "x"}]'})
    assert list(plan(says, "b.json").prompts) == ["cat[1]"]
    said = plan(says, "c.json")
    assert list(said.prompts) == ["cat1", "cat2"]
    assert said.warnings == ['"cat[12].png" is taken for a pattern']


def test_placeholders_are_replaced(says: Says) -> None:
    jobs = [
        {"id": "k", "image": "cat.png", "prompt": "{caption}|{stem}|{id}|{index}|{index:03}|{seed}", "seed": "007"},
        {"image": "cat.png", "prompt": "{id}", "negative_prompt": "no {stem}", "matrix": {"seed": [1, 2]}},
        {"id": "t", "prompt": "{id} of {seed}"},
    ]
    lay({"cat.png": PNG, "cat.txt": "a {seed} cat", "b.json": json.dumps(jobs)})
    said = plan(says, "b.json")
    assert list(said.prompts.values()) == ["a {seed} cat|cat|k|1|001|7", "cat-1", "cat-2", "t of 42"]
    assert said.warnings == []
    assert [json.loads(line)["negative_prompt"] for line in said.out.splitlines()[:3]] == ["", "no cat", "no cat"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{captoin}", "{caption}"), ("{Caption}", "{caption}"), ("{ caption }", "{caption}"),
        ("{CAPTION}", "{caption}"), ("{{caption}}", "{caption}"), ("${caption}", "{caption}"), ("{Stem}", "{stem}"),
        ("{stme}", "{stem}"), ("{ID}", "{id}"), ("{indx}", "{index}"), ("{index:3}", "{index}"), ("{sed}", "{seed}"),
        ("{seed:04}", "{seed}"),
    ],
)  # fmt: skip
def test_a_misspelt_placeholder_is_refused_with_a_suggestion(says: Says, written: str, meant: str) -> None:
    where = json.dumps({"jobs": [{"prompt": f"a {written} b"}]})
    refused(
        says, {"b.json": where}, "b.json", told=f'b.json:1:22: jobs[0].prompt: "{written}" is not a placeholder (did'
    )
    assert f'(did you mean "{meant}"?)' in says("plan", "b.json").err
    for document in ({"defaults": {"prompt": written}, "jobs": [{}]}, [{"matrix": {"negative_prompt": [written]}}]):
        lay({"b.json": json.dumps(document)})
        assert "did you mean" in says("plan", "b.json").err
    lay({"p/a.png": PNG, "p/a.txt": "a"})
    said = says("plan", "p", "-p", f"{{caption}} {written}")
    assert (said.code, said.err.splitlines()[0].partition(":")[0]) == (2, "--prompt")
    assert len(said.err.splitlines()) == 2


def test_other_text_in_braces_is_sent_unchanged_with_one_warning(says: Says) -> None:
    prompts = ["{red|blue} {a}", "{red|blue} {b} {} {", "{step by step}", '{"json": 1}', "{e}"]
    lay({"b.jsonl": "\n".join(json.dumps({"id": f"j{n}", "prompt": text}) for n, text in enumerate(prompts))})
    said = plan(says, "b.jsonl")
    assert list(said.prompts.values()) == prompts
    assert len(said.warnings) == 1
    assert said.warnings[0].startswith(
        'in prompts, "{red|blue}", "{a}", "{b}", "{}", "{step by step}" and 2 more are sent'
    )


@pytest.mark.parametrize("field", ["stem", "id", "caption"])
def test_a_placeholder_without_a_value_is_refused(says: Says, field: str) -> None:
    lay({"b.json": json.dumps([{"prompt": f"{{{field}}}"}, {"image": "http://x/y.png", "prompt": "{stem} {id}"}])})
    said = says("plan", "b.json")
    assert said.code == 2
    assert said.err.startswith(f"b.json:1:13: jobs[0].prompt: there is no {{{field}}}: the job has n")


def test_the_value_of_a_placeholder_may_not_hold_control_characters(says: Says) -> None:
    jobs = [{"image": "http://x/a%07.png", "prompt": "{stem}"}]
    refused(says, {"b.json": json.dumps(jobs)}, "b.json", told="jobs[0].prompt: holds the control character U+0007")
