"""Property tests: any batch, name or folder is read, or refused with the places of its problems."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jobs import job_of
from pictures import gif, heic, jpeg, png, webp

from wan_async.batch import output_check
from wan_async.batch.images import check_image
from wan_async.batch.plan import Prepared, prepare
from wan_async.batch.reader import output_folder, read_batch
from wan_async.domain.batch import Batch
from wan_async.domain.job import image_of
from wan_async.domain.naming import folded
from wan_async.domain.validation import fault_of_prompt, is_url
from wan_async.errors import InvalidBatch, Problem

PNG = png(bytes(24))
SUFFIXES = ("yaml", "json", "jsonl", "csv", "tsv")
GOOD: dict[str, bytes] = {
    "yaml": b"defaults: {seed: 3}\njobs:\n- {id: k, image: 'a*.png', prompt: 'x {caption}', matrix: {seed: [1]}}\n"
    b"- image: ~/b.png\n  prompt: |\n    two\n    lines\n",
    "json": b'{"output": "o", "name": "{stem}-{index}", "jobs": [{"image": "a.png"}, {"prompt": "x", "seed": "7"}]}',
    "jsonl": b'{"image": "a.png", "prompt": "p {stem}"}\n{"prompt": "x", "id": 5}\n',
    "tsv": b"sep=\t\r\nFile Name\tText\tNegative-Prompt\r\na.png\tx, y\tnan\r\na.png\tz\t#N/A\r\n",
    "csv": b'id,image,prompt\r\n1,a.png,"x, y"\r\n2,,z\r\n',
}
PIECES = [
    b"\0", b"\xff", b"\xfe", b"\r", b"\n", b",", b'"', b"'", b":", b"{", b"}", b"[", b"]", b"*", b"?", b"~/",
    b"{caption}", b"{Stem}", b"\xed\xa0\x80", b"\\ud800", b"https://[x]/", b"../", b"a" * 300, b"&a ", b"*a ", b"- ",
    b"\xe2\x80\x8b", b"!",
]  # fmt: skip
mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 4), st.sampled_from(PIECES) | st.binary(max_size=3)), max_size=5
)


@contextmanager
def a_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def mutated(text: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for at, dropped, put in changes:
        start = int(at * len(text))
        text = text[:start] + put + text[start + dropped :]
    return text


def check(problems: Sequence[Problem], where: str = "") -> None:
    """Assert that there are problems, each with a place and a message."""
    assert problems
    for problem in problems:
        assert problem.where.startswith(where)
        assert problem.where
        assert problem.message


def planned(source: Path, prompt: str | None = None, *, recursive: bool = False) -> Prepared | None:
    """Do what `plan` does before it prints, and the same with `--skip-bad`. Returns None if the batch is refused."""
    prepared = planned_once(source, prompt, recursive=recursive, skip_bad=False)
    rest = planned_once(source, prompt, recursive=recursive, skip_bad=True)
    if prepared is not None:
        assert rest is not None
        assert (rest.jobs, rest.left_out, rest.left_out_jobs) == (prepared.jobs, (), 0)
    elif rest is not None and rest.left_out:
        check(rest.left_out)
        assert rest.left_out_jobs
    return prepared


def planned_once(source: Path, prompt: str | None, *, recursive: bool, skip_bad: bool) -> Prepared | None:
    try:
        batch: Batch = read_batch(source, prompt=prompt, recursive=recursive, skip_bad=skip_bad)
        output = output_folder(source, batch, None)
        if not isinstance(output, Path):
            return None
        if output_check.folder_problem(output) or output_check.target_problems(batch.jobs, output, source):
            return None
        prepared = prepare(batch, output / ".wan_async", upright=True, skip_bad=skip_bad)
    except InvalidBatch as error:
        check(error.problems)
        return None
    assert prepared.jobs
    for one in prepared.jobs:
        job = job_of(one.planned)
        assert fault_of_prompt(job.prompt) is None
        assert job.prompt.strip()
        image = image_of(job)
        assert image is None or is_url(image) or check_image(image) is None
        json.dumps(one.planned.name).encode()
        one.planned.where.encode("utf-8", "backslashreplace")
    names = [folded(one.planned.name) for one in prepared.jobs]
    assert len(set(names)) == len(names)
    return prepared


@given(st.sampled_from(SUFFIXES), mutations)
def test_a_batch_file_with_any_mutation_is_read_or_refused(
    suffix: str, changes: list[tuple[float, int, bytes]]
) -> None:
    with a_folder() as folder:
        (folder / "a.png").write_bytes(PNG)
        (folder / "a.txt").write_bytes(mutated(b"a caption", changes[:1]))
        source = folder / f"b.{suffix}"
        source.write_bytes(mutated(GOOD[suffix], changes))
        planned(source)


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-16")), st.sampled_from(SUFFIXES))
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str) -> None:
    with a_folder() as folder:
        source = folder / f"b.{suffix}"
        source.write_bytes(content)
        planned(source)


ANY_TEXT = st.binary(max_size=60) | st.builds(mutated, st.sampled_from(sorted(GOOD.values())), mutations)


@given(ANY_TEXT)
@example(b"sep=")
@example(b'sep="')
@example(b"{" * 100_000)
@example(b"[" * 100_000)
@example(b"prompt: a")
def test_any_bytes_on_standard_input_are_read_or_refused(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch, a_folder() as folder:
        patch.chdir(folder)
        (folder / "a.png").write_bytes(PNG)
        for skip_bad in (False, True):
            try:
                batch = read_batch("-", stdin=io.BytesIO(content), skip_bad=skip_bad)
            except InvalidBatch as error:
                check(error.problems)
            else:
                assert batch.jobs


VALUES = st.text(max_size=12) | st.sampled_from(
    ["", " ", "~", "~/", "~x", "..", "/", "a.png", "*", "**/*", "[", "[]", "[a]", "[!a]", "https://[",
     "http://x/%00", "a\0", "{id}", "{stem}", "{caption}", "{{", "con",
     "x" * 300, "y/" * 2500, "\ud800", "data:x", "s3://b/c", "\u200b"]
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("id", "image", "prompt", "negative_prompt", "callback_url"), VALUES)
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("output", "name"), VALUES)),
    st.none() | VALUES,
)
@example({"image": "~x", "prompt": "{id}"}, {"name": "{stem}"}, "{caption}")
def test_any_text_in_any_field_is_a_job_or_refused(
    job: dict[str, Any], envelope: dict[str, Any], prompt: str | None
) -> None:
    with pytest.MonkeyPatch.context() as patch, a_folder() as folder:
        patch.setenv("HOME", str(folder))
        (folder / "a.png").write_bytes(PNG)
        (folder / "b.json").write_text(json.dumps({**envelope, "jobs": [job, {"prompt": "x", "id": "other"}]}))
        planned(folder / "b.json", prompt)


NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")).filter(
    lambda name: name not in (b".", b"..")
) | st.sampled_from(
    [b"a.png", b"a.PNG", b"a.jpg", b"a.txt", b"a.png.txt", b"a.TXT", b"a.caption", b"metadata.jsonl",
     b"metadata.csv", b"~a.png", b"caf\xe9.png", b"[1].png", b"*.png", b"@eaDir", b".hidden",
     b"con.png", b"\n.png", b"-.png", b".png", b"{id}.png",
     b"x" * 250 + b".png", b"data:x.png", b"http:", b".wan_async"]
)  # fmt: skip
CONTENTS = st.sampled_from(
    [
        PNG,
        PNG[:-20],
        jpeg(orientation=6),
        jpeg()[:-2],
        gif(2),
        webp(),
        heic(),
        b"",
        b"text",
        b"\xff\xfet\0",
        b"\0\0",
        b'{"file_name": "a.png", "text": "x"}',
        b"\xe9",
    ]
)
THINGS = st.recursive(
    st.tuples(st.just("file"), CONTENTS) | st.tuples(st.sampled_from(["up", "nowhere", "self", "pipe"]), st.none()),
    lambda inner: st.tuples(st.just("folder"), st.lists(st.tuples(NAMES, inner), max_size=5)),
    max_leaves=12,
)


def build(folder: Path, things: list[tuple[bytes, Any]]) -> None:
    for name, (kind, content) in things:
        path = folder / os.fsdecode(name)
        if os.path.lexists(path):
            continue
        if kind == "file":
            path.write_bytes(content)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
            build(path, content)
        else:
            path.symlink_to({"up": "..", "nowhere": "nowhere", "self": path.name}[kind])


@pytest.mark.skipif(os.name == "nt", reason="on Windows names are UTF-16, and links need a privilege")
@given(
    st.lists(st.tuples(NAMES, THINGS), max_size=6),
    st.sampled_from(["*", "**/*", "**", "*/*", "[a-z]*", "**/*.png", "?*/**/*", "./../*/*.png", "a.png/*"]),
    st.none() | st.just("x") | st.just("{caption} {stem}"),
)
def test_the_search_of_any_folder_tree_terminates(
    things: list[tuple[bytes, Any]], pattern: str, prompt: str | None
) -> None:
    with pytest.MonkeyPatch.context() as patch, a_folder() as folder:
        scandir = os.scandir

        def refusing(path: Any) -> Any:
            if os.fspath(path).endswith("e"):  # by hand, since root ignores permissions
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        (folder / "photos").mkdir()
        build(folder / "photos", things)
        (folder / "b.json").write_text(json.dumps([{"image": f"photos/{pattern}"}]))
        patch.setattr(os, "scandir", refusing)
        for source, recursive in ((folder / "photos", True), (folder / "photos", False), (folder / "b.json", False)):
            planned(source, prompt, recursive=recursive)
        patch.undo()
