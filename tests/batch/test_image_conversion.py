"""`--prepare`: upright, converted copies, made once, and known by their originals."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from jobs import job_of
from pictures import jpeg
from PIL import Image

from wan_async.batch import image_conversion
from wan_async.batch.image_conversion import Unconvertible, converted
from wan_async.batch.image_inspection import Facts, inspect
from wan_async.batch.images import Digest
from wan_async.batch.plan import INPUTS, Prepared, prepare
from wan_async.batch.reader import read_batch
from wan_async.domain.job import image_of
from wan_async.errors import InvalidBatch


def facts_of(path: Path) -> Facts:
    with path.open("rb") as file:
        facts = inspect(file, path.stat().st_size)
    assert facts is not None
    return facts


def picture(size: tuple[int, int] = (320, 200)) -> Image.Image:
    """Red on its left, blue on its right."""
    made = Image.new("RGB", size, (255, 0, 0))
    made.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return made


def turned(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def copy_of(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(converted(str(path), facts_of(path))))


def test_a_copy_stands_upright_without_exif(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, exif=turned(6), quality=95)
    made = copy_of(path)
    assert (made.size, made.format, made.mode) == ((200, 320), "JPEG", "RGB")
    red, _, blue = made.convert("RGB").crop((100, 20, 101, 21)).tobytes()
    assert (red > 200, blue < 50) == (True, True)
    assert not made.getexif()


@pytest.mark.parametrize(
    ("name", "mode", "kind", "copied"),
    [
        ("a.jpg", "CMYK", "JPEG", "RGB"),
        ("a.tiff", "CMYK", "PNG", "RGB"),
        ("a.tiff", "RGBA", "PNG", "RGBA"),
        ("a.bmp", "P", "PNG", "RGBA"),
        ("a.bmp", "1", "PNG", "L"),
        ("a.tiff", "F", "PNG", "L"),
        ("a.tiff", "LAB", "PNG", "RGB"),
    ],
)
def test_a_copy_has_8_bits_a_channel_in_a_common_mode(
    tmp_path: Path, name: str, mode: str, kind: str, copied: str
) -> None:
    path = tmp_path / name
    if mode == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        made = ImageCms.applyTransform(picture(), to_lab)
        assert made is not None
        made.save(path)
    else:
        picture().convert(mode).save(path)
    copy = copy_of(path)
    assert (copy.format, copy.mode, copy.size) == (kind, copied, (320, 200))


def test_16_bits_of_grey_become_8(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("I;16", (64, 64), 0x8000).save(path)
    made = copy_of(path)
    assert (made.mode, made.getpixel((0, 0))) == ("L", 0x80)


def test_a_profile_is_applied_and_a_broken_one_is_ignored(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number, content in enumerate((profile, b"none at all")):
        path = tmp_path / f"{number}.jpg"
        picture().save(path, exif=turned(3), icc_profile=content)
        made = copy_of(path)
        assert (made.mode, "icc_profile" in made.info) == ("RGB", False)


def test_heic_becomes_jpeg(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "a.heic"
    picture().save(path)
    made = copy_of(path)
    assert (made.format, made.size) == ("JPEG", (320, 200))


def test_without_pillow_heif_heic_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Unconvertible, match=r"pip install 'wan-async\[images\]'"):
        converted(str(tmp_path / "a.heic"), Facts("image/heic", 320, 200))


def test_what_cannot_be_decoded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(orientation=6))
    with pytest.raises(Unconvertible, match="decoded"):
        converted(str(path), facts_of(path))
    with pytest.raises(Unconvertible, match="megapixels"):
        converted(str(path), Facts("image/jpeg", 20_000, 20_000, orientation=6))
    path.write_bytes(b"text")
    with pytest.raises(Unconvertible, match="decoded"):
        converted(str(path), Facts("image/tiff", 640, 480))
    picture().save(path, exif=turned(6))
    monkeypatch.setattr(image_conversion, "fault_of_bytes", lambda _: "is too large")
    with pytest.raises(Unconvertible, match="too large once it is converted"):
        converted(str(path), facts_of(path))


def folder_of_photos(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    picture().save(photos / "plain.jpg")
    picture().save(photos / "turned.jpg", exif=turned(6))
    return photos


def prepared(photos: Path, home: Path, *, skip_bad: bool = False) -> Prepared:
    return prepare(read_batch(photos, prompt="x"), home, upright=True, skip_bad=skip_bad)


def write(made: Prepared) -> None:
    """Do what a run does with the inputs."""
    for path, data in made.inputs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_only_what_needs_it_is_copied_and_nothing_is_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = prepared(folder_of_photos(tmp_path), home)
    assert not home.exists()
    plain, copied = (image_of(job_of(one.planned)) for one in made.jobs)
    assert plain == str(tmp_path / "photos" / "plain.jpg")
    assert [str(path) for path in made.inputs] == [copied]
    assert Path(copied or "").parent == home / INPUTS
    assert [one.planned.name for one in made.jobs] == ["plain", "turned"]
    assert "converted copy" in "\n".join(made.remarks)
    without = prepare(read_batch(tmp_path / "photos", prompt="x"), home)
    assert without.jobs[0].content == made.jobs[0].content
    assert without.jobs[1].content != made.jobs[1].content


def test_the_identity_of_a_job_outlasts_its_copy_and_another_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, home = folder_of_photos(tmp_path), tmp_path / "home"
    first = prepared(photos, home)
    write(first)
    again = prepared(photos, home)
    assert (list(again.inputs), again.jobs) == ([], first.jobs)
    before = converted
    monkeypatch.setattr(image_conversion, "converted", lambda path, facts: before(path, facts) + b"other bytes")
    assert prepared(photos, home).jobs == first.jobs  # the copy that is there is used
    next((home / INPUTS).iterdir()).unlink()
    later = prepared(photos, home)
    assert [one.key for one in later.jobs] == [one.key for one in first.jobs]
    assert [one.content for one in later.jobs] == [one.content for one in first.jobs]
    assert later.jobs[1].image != first.jobs[1].image


def test_a_copy_that_the_journal_knows_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, home = folder_of_photos(tmp_path), tmp_path / "home"
    first = prepared(photos, home)
    write(first)
    known = prepared(photos, home)
    path = next((home / INPUTS).iterdir())
    assert known.hashed[str(path)].sha256 == first.jobs[1].image.removeprefix("sha256:")
    monkeypatch.setattr(image_conversion, "digest", lambda _: pytest.fail("hashed again"))
    batch = read_batch(photos, prompt="x")
    digest: Digest = known.hashed[str(path)]
    source = str(photos / "turned.jpg")
    found = image_conversion.with_copies(
        batch, known.hashed, {source: facts_of(Path(source))}, {}, home / INPUTS, {str(path): digest}
    )
    assert found.digests == {str(path): digest.sha256}


def test_copies_beyond_the_memory_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_conversion, "KEPT_BYTES", 0)
    made = prepared(folder_of_photos(tmp_path), tmp_path / "home")
    assert [len(data) > 100 for data in made.inputs.values()] == [True]
    assert len(made.inputs) == 1


def test_an_image_that_cannot_be_copied_is_a_problem_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = folder_of_photos(tmp_path)
    (photos / "broken.jpg").write_bytes(jpeg(orientation=6))
    with pytest.raises(InvalidBatch) as caught:
        prepared(photos, tmp_path / "home")
    assert [problem.where for problem in caught.value.problems] == [str(photos / "broken.jpg")]
    made = prepared(photos, tmp_path / "home", skip_bad=True)
    assert ([one.planned.name for one in made.jobs], made.left_out_jobs) == (["plain", "turned"], 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidBatch, match="needs Pillow"):
        prepared(photos, tmp_path / "home")


def test_without_copies_to_make_pillow_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder_of_photos(tmp_path)
    (photos / "turned.jpg").unlink()
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(prepared(photos, tmp_path / "home").jobs) == 1
