"""The zip of the page: what is in it, that nothing secret is, and that it is whole or not there."""

from __future__ import annotations

import json
import os
import zipfile
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from gallery_pages import KEY, SIGNATURE, TOKEN, Page, Take, database, record_batches
from pictures import png

from wan_async.errors import InvalidBatch, Unusable
from wan_async.gallery import portable
from wan_async.gallery.portable import pack
from wan_async.gallery.verdicts import Verdict, Verdicts

NOTHING = Verdicts()


def folder(output: Path, *takes: Take) -> Path:
    """An output folder whose clips, sidecars and results are on disk."""
    output.mkdir(parents=True)
    record_batches(output, [*takes])
    with closing(database(output)) as db, db:
        files = [file for (file,) in db.execute("SELECT file FROM clips")]
        for file in files:
            content = f"clip {file}".encode() * 100
            (output / file).write_bytes(content)
            row = (len(content), sha256(content).hexdigest(), file)
            db.execute("UPDATE clips SET bytes = ?, sha256 = ? WHERE file = ?", row)
    for file in files:
        secret = {"url": f"https://cdn.example/?Signature={SIGNATURE}", "token": TOKEN, "key": KEY}
        (output / file).with_suffix(".json").write_text(json.dumps(secret))
    (output / "results.jsonl").write_text(TOKEN)
    return output


def spec(image: Path | str, recorded: str | None = None) -> dict[str, Any]:
    return {"image": str(image)} | ({"image_file": recorded} if recorded else {})


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "cat.png"
    path.parent.mkdir()
    path.write_bytes(png(b"cat"))
    return path


def test_it_has_the_page_its_clips_and_their_images_and_nothing_else(tmp_path: Path, image: Path) -> None:
    files = (("two.mp4", "video/mp4"), ("two-2.png", "image/png"))
    takes = (Take("one", spec=spec(image)), Take("two", files=files, spec=spec(image)), Take("broken", "failed"))
    output = folder(tmp_path / "my clips", *takes)
    packed = pack(output, tmp_path / "review.zip", NOTHING)
    found = contents(tmp_path / "review.zip")
    inside = ["gallery.html", "one.mp4", "two.mp4", "two-2.png", "images/cat.png"]
    assert found.keys() == {f"my clips/{name}" for name in inside}
    assert found["my clips/one.mp4"] == (output / "one.mp4").read_bytes()
    assert found["my clips/images/cat.png"] == image.read_bytes()
    assert (packed.clips, packed.images, packed.gone) == (3, 1, [])
    assert packed.bytes == (tmp_path / "review.zip").stat().st_size
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_every_link_of_the_page_leads_to_a_file_of_the_zip(tmp_path: Path, image: Path) -> None:
    hostile = Take("a b?#%", files=(("a b#%.mp4", "video/mp4"),), spec=spec(image))
    output = folder(tmp_path / "out", Take("one", spec=spec(image)), hostile)
    pack(output, tmp_path / "review.zip", NOTHING)
    with zipfile.ZipFile(tmp_path / "review.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    page = tmp_path / "elsewhere" / "out" / "gallery.html"
    hrefs = links_of(page)
    assert len(hrefs) >= 3
    for href in hrefs:
        assert (page.parent / href).is_file(), href


def links_of(page: Path) -> set[str]:
    """The files that a page refers to: clips by their names, images by their links."""
    found = set()
    for row in Page(page.read_text("utf-8")).rows:
        found |= {clip["file"] for clip in row.get("clips", ())}
        found |= {unquote(row["shot"]["src"])} if "src" in row["shot"] else set()
    return found


def test_nothing_secret_is_in_it(tmp_path: Path, image: Path) -> None:
    states = ("stored", "failed", "missing", "unknown", "accepted", "ended", "cancelled", "quarantined")
    signed = f"https://user:{KEY}@cdn.example/cat.png?Signature={SIGNATURE}"
    takes = [Take(state, state, spec=spec(image)) for state in states]
    output = folder(tmp_path / "out", *takes, Take("remote", spec=spec(signed)))
    record_batches(output, [Take("stored", content="edited")])  # the clip is an earlier take then
    pack(output, tmp_path / "review.zip", NOTHING)
    for name, content in contents(tmp_path / "review.zip").items():
        for secret in (KEY, TOKEN, SIGNATURE, "journal.sqlite3", str(tmp_path)):
            assert secret.encode() not in content, (name, secret)
        assert b"https://" not in content


def test_the_page_has_the_verdicts(tmp_path: Path) -> None:
    output = folder(tmp_path / "out", Take("one"))
    verdicts = Verdicts("out", 1.0, {"a" * 64: Verdict("pick", 5, "the <tail>", "one.mp4", 1.0)})
    pack(output, tmp_path / "review.zip", verdicts)
    page = Page(contents(tmp_path / "review.zip")["out/gallery.html"].decode())
    assert any(script.strip().startswith('{"verdicts":1') and "the \\u003ctail>" in script for script in page.scripts)


def test_images_of_one_name_get_different_ones(tmp_path: Path, image: Path) -> None:
    other = tmp_path / "other" / "CAT.png"
    other.parent.mkdir()
    other.write_bytes(png(b"another"))
    output = folder(tmp_path / "out", Take("one", spec=spec(image)), Take("two", spec=spec(other)))
    assert pack(output, tmp_path / "review.zip", NOTHING).images == 2
    found = contents(tmp_path / "review.zip")
    assert found["out/images/cat.png"] == image.read_bytes()
    assert found["out/images/CAT-2.png"] == other.read_bytes()


def test_an_image_is_found_from_any_working_folder(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder(tmp_path / "out", Take("one", spec=spec("images/cat.png", "../images/cat.png")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pack(output, tmp_path / "review.zip", NOTHING)
    found = contents(tmp_path / "review.zip")
    assert found["out/images/cat.png"] == image.read_bytes()
    (row,) = Page(found["out/gallery.html"].decode()).rows
    assert row["shot"]["src"] == "./images/cat.png"


def test_images_that_are_gone_and_clips_that_are_gone_are_left_out(tmp_path: Path) -> None:
    output = folder(tmp_path / "out", Take("one", spec=spec(tmp_path / "gone.png")), Take("two"), Take("three"))
    (output / "two.mp4").unlink()
    (output / "three.mp4").write_bytes(b"cut")
    packed = pack(output, tmp_path / "review.zip", NOTHING)
    assert (packed.clips, packed.images, packed.gone) == (1, 0, ["two.mp4", "three.mp4"])
    assert contents(tmp_path / "review.zip").keys() == {"out/gallery.html", "out/one.mp4"}


def test_media_are_stored_as_they_are_and_may_have_more_than_four_gigabytes(tmp_path: Path) -> None:
    output = folder(tmp_path / "out", Take("one"))
    pack(output, tmp_path / "review.zip", NOTHING)
    with zipfile.ZipFile(tmp_path / "review.zip") as archive:
        info = archive.getinfo("out/one.mp4")
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.extract_version >= zipfile.ZIP64_VERSION


def test_an_older_zip_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    output = folder(tmp_path / "out", Take("one"))
    for _ in range(2):
        pack(output, tmp_path / "review.zip", NOTHING)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "text.zip").write_text("mine")
    for name in ("mine.zip", "text.zip"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InvalidBatch, match=name):
            pack(output, tmp_path / name, NOTHING)
        assert (tmp_path / name).read_bytes() == before


def test_what_can_not_be_written_leaves_the_older_zip_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder(tmp_path / "out", Take("one"))
    pack(output, tmp_path / "review.zip", NOTHING)
    before = (tmp_path / "review.zip").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(portable, "copyfileobj", full)
    with pytest.raises(Unusable, match="No space left"):
        pack(output, tmp_path / "review.zip", NOTHING)
    assert (tmp_path / "review.zip").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_place_of_an_image_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    output = folder(tmp_path / "out", Take("one", spec=spec(tmp_path / "pipe.png")))
    assert pack(output, tmp_path / "review.zip", NOTHING).images == 0


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no journal"):
        pack(tmp_path, tmp_path / "review.zip", NOTHING)
