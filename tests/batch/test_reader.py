from __future__ import annotations

import gc
import hashlib
import io
import os
import sys
from pathlib import Path

import pytest
from jobs import job_of
from pictures import png

from wan_async.batch import captions, images
from wan_async.batch.batch_folder import BatchFolder, natural
from wan_async.batch.images import Digest, check_image, digest, digests, image_problems, local_images
from wan_async.batch.reader import output_folder, read_batch
from wan_async.domain.batch import Batch, from_jobs
from wan_async.domain.job import Job
from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch
from wan_async.filetypes import sniff_image

PNG = png(bytes(24))


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidBatch) as caught:
        read_batch(path)
    return [str(problem) for problem in caught.value.problems]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.yaml", "- prompt: x"),
        ("b.YML", "- prompt: x"),
        ("b.json", '[{"prompt": "x"}]'),
        ("b.jsonl", '{"prompt": "x"}'),
        ("b.ndjson", '{"prompt": "x"}'),
        ("b.csv", "prompt\nx"),
    ],
)
def test_the_suffix_of_a_file_selects_its_syntax(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    batch = read_batch(path)
    assert [job_of(one).prompt for one in batch.jobs] == ["x"]
    assert batch.source == str(path)
    assert batch.jobs[0].where.startswith(f"{path}:")
    assert gc.isenabled()


def test_relative_paths_are_resolved_from_the_folder_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "images" / "cat.png", PNG)
    write(tmp_path / "in" / "b.yaml", "- {image: images/cat.png, prompt: x}\n- {image: ~/dog.png, prompt: x}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    batch = read_batch(tmp_path / "in" / "b.yaml")
    assert local_images(batch) == [str(tmp_path / "in" / "images" / "cat.png"), str(tmp_path / "dog.png")]
    monkeypatch.chdir(tmp_path)
    assert local_images(read_batch(Path("in") / "b.yaml"))[0] == str(Path("in") / "images" / "cat.png")


def test_globs_match_only_images_and_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "odd [name]"
    for name in ("cat10.PNG", "cat2.png", "Cat1.jpg", ".hidden.png", "cat2.txt", "deep/er/dog.webp"):
        write(folder / name, PNG)
    (folder / "folder.png").mkdir()
    disk = BatchFolder(folder)
    assert [Path(path).name for path in disk.glob("*")] == ["Cat1.jpg", "cat2.png", "cat10.PNG"]
    for pattern in ("**/dog.*", "**/**/dog.*", "d*/er/dog.webp"):
        assert disk.glob(pattern) == [str(folder / "deep" / "er" / "dog.webp")]
    for pattern in ("d*/er/cat.webp", "d*/none/dog.webp"):
        assert disk.glob(pattern) == []
    assert BatchFolder(tmp_path / "gone").glob("*") == []
    write(tmp_path / "abs" / "a.png", PNG)
    assert disk.glob(str(tmp_path / "abs" / "*")) == [str(tmp_path / "abs" / "a.png")]
    assert disk.exists(disk.resolve("cat2.png"))
    assert not disk.exists(disk.resolve("cat3.png"))


@pytest.mark.skipif(os.path.normcase("A") == "a", reason="there, case does not count")
def test_a_glob_that_matches_in_another_case_says_so(tmp_path: Path) -> None:
    for name in ("Photos/a.jpg", "Photos/b.jpg", "c.PNG"):
        write(tmp_path / name, PNG)
    batch = tmp_path / "b.yaml"

    def problem_of(pattern: str) -> str:
        write(batch, f"- {{image: '{pattern}', prompt: x}}\n- {{matrix: {{image: ['{pattern}']}}, prompt: x}}")
        with pytest.raises(InvalidBatch) as raised:
            read_batch(batch)
        first, second = (problem.message.split(": ", 1)[1] for problem in raised.value.problems)
        assert first == second
        return first

    assert problem_of("Photos/*.JPG") == '"Photos/*.JPG" matches no image (2 match "Photos/*.jpg": case counts)'
    assert problem_of("*.png") == '"*.png" matches no image (1 matches "*.PNG": case counts)'
    example = shown(str(tmp_path / "Photos" / "a.jpg"), whole=True)
    assert problem_of("photos/?.jpg").endswith(f"(2 do in another case, such as {example})")
    assert problem_of("../q/*.jpg") == '"../q/*.jpg" matches no image'
    assert problem_of("*.webp") == '"*.webp" matches no image'


def test_captions_are_read_from_files_beside_their_images(tmp_path: Path) -> None:
    disk = BatchFolder(tmp_path)
    write(tmp_path / "a.b.txt", "\ufeff a cat \r\n")
    write(tmp_path / "empty.txt", "\n")
    write(tmp_path / "latin.txt", b"\xe9")
    write(tmp_path / "long.txt", "x" * (captions.LIMIT_BYTES + 1))
    (tmp_path / "folder.txt").mkdir()
    assert disk.caption(disk.resolve("a.b.png")) == "a cat"
    assert disk.caption(disk.resolve("none.png")) is None
    assert disk.caption(disk.resolve("empty.png")) == ""
    assert disk.no_caption(disk.resolve("empty.png")) == f'"{tmp_path / "empty.txt"}" is empty'
    for name, fault in (("latin", "is not UTF-8"), ("long", "is larger than 64 KiB"), ("folder", "can't be read")):
        with pytest.raises(ValueError, match=fault):
            disk.caption(disk.resolve(f"{name}.png"))


def test_a_folder_is_a_batch_of_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("10.png", "9.JPG", ".hidden.png", "sub/1.png"):
        write(folder / name, PNG)
    write(folder / "notes.md", "notes")
    write(folder / "9.txt", "nine")
    batch = read_batch(folder, prompt="pan")
    assert [(one.name, job_of(one).prompt, one.where) for one in batch.jobs] == [
        ("9", "nine", str(folder / "9.JPG")),
        ("10", "pan", str(folder / "10.png")),
    ]
    where = folder / "10.png"
    assert problems(folder) == [
        f'{where}: prompt: is missing, and "{where}" has no caption beside it (--prompt gives one)'
    ]
    assert [job_of(one).prompt for one in read_batch(folder, prompt="pan").jobs] == ["nine", "pan"]


def test_a_relative_folders_images_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos" / "cat[1].png", PNG)
    monkeypatch.chdir(tmp_path)
    (image,) = local_images(read_batch(Path("photos"), prompt="x"))
    assert image == str(Path("photos") / "cat[1].png")
    assert check_image(image) is None


def test_a_path_that_is_no_batch_is_reported_with_advice(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert problems(tmp_path / "b.yaml") == [f"{tmp_path / 'b.yaml'}: there is no such file or folder"]
    assert problems(tmp_path / "b.txt") == [f"{tmp_path / 'b.txt'}: there is no such file or folder"]
    write(tmp_path / "b.txt", "x")
    assert problems(tmp_path / "b.txt")[0].endswith(
        "a batch is a folder or ends in .yaml, .yml, .json, .jsonl, .ndjson, .csv, .tsv, .tab"
    )
    write(tmp_path / "b.yaml", "\n")
    assert problems(tmp_path / "b.yaml")[0].endswith("is empty; see `wan-async schema` for what a batch holds")
    assert "there are no images in this folder (.jpg, " in problems(tmp_path / "none")[0]


def test_an_unreadable_batch_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "b.yaml", "- prompt: x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert problems(path) == [f"{path}: can't be read: Permission denied"]
    assert check_image(str(path)) == f'"{path}" can\'t be read: Permission denied'


def test_standard_input_holds_json_lines() -> None:
    batch = read_batch("-", stdin=io.BytesIO(b'{"prompt": "x", "image": "a.png"}'))
    assert [(job_of(one).image, one.where) for one in batch.jobs] == [("a.png", "stdin:1:1")]
    with pytest.raises(InvalidBatch, match="no standard input"):
        read_batch("-")


def test_reading_does_not_enable_a_disabled_garbage_collector(tmp_path: Path) -> None:
    path = write(tmp_path / "b.yaml", "- prompt: x")
    gc.disable()
    try:
        read_batch(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_output_folder_comes_from_the_flag_the_batch_or_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnamed, named = Batch([], None, ""), Batch([], "../out", "")
    path = tmp_path / "batch.v2.yaml"
    assert output_folder(path, named, Path("mine")) == Path("mine")
    assert output_folder(path, named, None) == tmp_path / ".." / "out"
    assert output_folder(path, unnamed, None) == tmp_path / "outputs" / "batch.v2"
    assert output_folder(path, Batch([], str(tmp_path / "abs"), ""), None) == tmp_path / "abs"
    folder = tmp_path / "photos.d"
    folder.mkdir()
    assert output_folder(folder, unnamed, None) == tmp_path / "photos.d.clips"
    monkeypatch.chdir(folder)
    assert output_folder(Path(), unnamed, None) == tmp_path / "photos.d.clips"
    assert output_folder(Path("..") / "photos.d", unnamed, None) == Path("..") / "photos.d.clips"
    assert output_folder(Path(tmp_path.anchor), unnamed, None) == Path(tmp_path.anchor) / "clips"
    assert output_folder("-", unnamed, Path("mine")) == Path("mine")
    with pytest.raises(InvalidBatch, match="needs -o"):
        output_folder("-", unnamed, None)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (PNG, "image/png"),
        (b"GIF89a....", "image/gif"),
        (b"GIF87a....", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"II*\0....", "image/tiff"),
        (b"MM\0*....", "image/tiff"),
        (b"BM....\0\0\0\0....", "image/bmp"),
        (b"BMW is a car", None),
        (b"\0\0\0\x18ftypheic....", "image/heic"),
        (b"\0\0\0\x18ftypmif1....", "image/heic"),
        (b"\0\0\0\x18ftypavif....", "image/avif"),
        (b"\0\0\0\x18ftypisom....", None),
        (b"", None),
        (b"<svg>", None),
    ],
)
def test_the_type_of_an_image_is_detected_by_its_first_bytes(first: bytes, kind: str | None) -> None:
    assert sniff_image(first) == kind


def test_an_image_is_hashed_in_blocks(tmp_path: Path) -> None:
    content = PNG + bytes(3 * 1024 * 1024)
    path = write(tmp_path / "cat.png", content)
    read = digest(str(path))
    assert read == Digest(hashlib.sha256(content).hexdigest(), len(content), path.stat().st_mtime_ns)


def test_a_file_that_cannot_be_uploaded_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    empty = write(tmp_path / "empty.png", b"")
    text = write(tmp_path / "text.png", b"hello")
    large = write(tmp_path / "large.png", PNG)
    os.truncate(large, 100_000_001)
    gone = tmp_path / "gone.png"
    expected = {
        empty: "has 0 bytes",
        text: "is not an image",
        large: "is larger than 100 MB, Wiro's limit",
        gone: "doesn't exist",
    }
    for path, fault in expected.items():
        assert check_image(str(path)) == f'"{path}" {fault}'
        with pytest.raises(ValueError, match=fault):
            digest(str(path))
    if sys.platform != "win32":
        assert check_image(str(folder)) == f'"{folder}" is a folder; for all images in it write "{folder}/*"'
    assert check_image(str(write(tmp_path / "cat.png", PNG))) is None
    os.truncate(large, 100_000_000)
    assert check_image(str(large)) is None


def test_a_file_that_changes_while_it_is_read_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "cat.png", PNG)
    check = images._check

    def grow(name: str, status: os.stat_result, first: bytes) -> None:
        check(name, status, first)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(images, "_check", grow)
    with pytest.raises(ValueError, match="changed while it was read"):
        digest(str(path))


def test_unchanged_files_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cat, dog = str(write(tmp_path / "cat.png", PNG)), str(write(tmp_path / "dog.png", PNG + b"x"))
    gone = str(tmp_path / "gone.png")
    first = digests([cat, dog], {})
    assert first.found == first.new
    os.utime(dog, ns=(1, 1))
    again = digests([cat, dog, gone], first.found | {gone: first.found[cat]})
    assert again.found[cat] is first.found[cat]
    assert again.new == {dog: digest(dog)}
    assert again.faults == {gone: f'"{gone}" doesn\'t exist'}
    assert digests([gone], {}).faults == again.faults


def test_bytes_that_are_no_whole_image_or_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png()
    assert images.fault_of_bytes(whole) is None
    assert images.fault_of_bytes(b"text") == "is not an image"
    assert "cut off" in str(images.fault_of_bytes(whole[:-20]))
    monkeypatch.setattr(images, "UPLOAD_LIMIT_BYTES", len(whole) - 1)
    assert "is larger than" in str(images.fault_of_bytes(whole))


def test_an_unchanged_image_that_cannot_be_read_now_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path / "cat.png", png()))
    first = digests([path], {})
    assert first.facts[path].width == 640

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images, "open_file", refuse)
    again = digests([path], first.found)
    assert (again.found, again.facts, again.faults) == (first.found, {}, {})


def test_a_bad_image_is_reported_at_each_job_that_uses_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "b.yaml",
        "- {image: x.png, prompt: a, id: a}\n- matrix:\n    seed: [1, 2]\n  prompt: b\n- {image: x.png, prompt: c}",
    )
    batch = read_batch(path)
    faults = digests(local_images(batch), {}).faults
    image = tmp_path / "x.png"
    assert [str(problem) for problem in image_problems(batch, faults)] == [
        f'{path}:1:11: jobs[0].image: "{image}" doesn\'t exist',
        f'{path}:5:11: jobs[2].image: "{image}" doesn\'t exist',
    ]


def test_an_image_of_a_job_without_a_batch_file_is_reported_by_the_job_number() -> None:
    batch = from_jobs([Job(prompt="a"), Job(prompt="b", image="x.png")])
    assert [str(problem) for problem in image_problems(batch, {"x.png": "is gone"})] == ["jobs[1].image: is gone"]


def test_natural_order_compares_numbers_and_ignores_case() -> None:
    assert sorted(["b1", "a10", "A2", "a", "10", "9", "a2"], key=natural) == ["9", "10", "a", "A2", "a2", "a10", "b1"]
