"""The sandbox's clips: size, format, content, and reproducible bytes."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from PIL import Image, ImageChops, ImageDraw

from wan_async.sandbox import clip_renderer
from wan_async.sandbox.clip_renderer import FPS, render, size_of
from wan_async.sandbox.clip_variations import Look
from wan_async.sandbox.prompt_pictures import scene

RESOLUTIONS = ("480P", "580P", "720P")
ORIENTATION = 0x0112


def picture(size: tuple[int, int], mode: str = "RGB", form: str = "PNG", orientation: int | None = None) -> bytes:
    """An image file, dark on the left and light on the right, in any of Pillow's modes."""
    plain = Image.new("RGB", size, (30, 60, 90))
    ImageDraw.Draw(plain).rectangle((size[0] // 2, 0, *size), fill=(220, 200, 180))
    made = plain.convert(mode)
    if mode in ("RGBA", "LA"):
        made.putalpha(128)
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    file = io.BytesIO()
    made.save(file, form, exif=exif)
    return file.getvalue()


def frames_of(clip: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(clip), "r") as container:
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


def size_in(clip: bytes) -> tuple[int, int]:
    with av.open(io.BytesIO(clip), "r") as container:
        codec = container.streams.video[0].codec_context
        return codec.width, codec.height


def boxes(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        yield data[place + 4 : place + 8]
        place += int.from_bytes(data[place : place + 4], "big")
    assert place == len(data)


@pytest.fixture(scope="module")
def koala() -> bytes:
    """A clip without an image."""
    return render(None, "a koala on a branch", "480P", "Default", "42")


@pytest.fixture
def _two_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten clips to two frames where neither length nor motion matters."""
    monkeypatch.setattr(clip_renderer, "SECONDS", 0.1)


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten clips to six frames where the length does not matter."""
    monkeypatch.setattr(clip_renderer, "SECONDS", 0.25)


# Sizes


@pytest.mark.parametrize(
    ("resolution", "ratio", "image", "size"),
    [
        ("480P", "Default", None, (854, 480)),
        ("580P", "Default", None, (1032, 580)),
        ("720P", "Default", None, (1280, 720)),
        ("480P", "16:9", (100, 400), (854, 480)),
        ("580P", "16:9", (100, 400), (1032, 580)),
        ("720P", "16:9", (100, 400), (1280, 720)),
        ("480P", "9:16", None, (480, 854)),
        ("580P", "9:16", (400, 100), (580, 1032)),
        ("720P", "9:16", (400, 100), (720, 1280)),
        ("480P", "1:1", (400, 100), (480, 480)),
        ("580P", "1:1", None, (580, 580)),
        ("720P", "1:1", (100, 400), (720, 720)),
        ("480P", "Default", (640, 480), (640, 480)),
        ("480P", "Default", (480, 640), (480, 640)),
        ("720P", "Default", (300, 300), (720, 720)),
        ("480P", "Default", (9000, 100), (1120, 480)),
        ("480P", "Default", (100, 9000), (480, 1120)),
        ("strange", "strange", None, (854, 480)),
    ],
)
def test_the_shorter_side_is_that_of_the_resolution(
    resolution: str, ratio: str, image: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    assert size_of(resolution, ratio, image) == size


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("shape", [(333, 211), (211, 333), (1, 5000), (5000, 1), (7, 7), (1921, 1081)])
def test_every_size_is_even_and_near_the_shape_of_the_image(resolution: str, shape: tuple[int, int]) -> None:
    width, height = size_of(resolution, "Default", shape)
    assert width % 2 == height % 2 == 0
    assert min(width, height) == int(resolution[:-1])
    wanted = min(21 / 9, max(9 / 21, shape[0] / shape[1]))
    assert width / height == pytest.approx(wanted, rel=0.01)


@pytest.mark.usefixtures("_two_frames")
@pytest.mark.parametrize(
    ("image", "ratio", "size"),
    [
        (picture((640, 400)), "Default", (768, 480)),
        (picture((400, 640)), "Default", (480, 768)),
        (picture((640, 400)), "9:16", (480, 854)),
        (picture((400, 640)), "16:9", (854, 480)),
        (picture((640, 400), form="JPEG", orientation=6), "Default", (480, 768)),
        (picture((640, 400), form="JPEG", orientation=3), "Default", (768, 480)),
        (picture((300, 300), "P"), "Default", (480, 480)),
        (picture((300, 300), "P", "GIF"), "Default", (480, 480)),
        (picture((640, 400), "RGBA"), "Default", (768, 480)),
        (picture((640, 400), "LA"), "1:1", (480, 480)),
        (picture((640, 400), "L"), "Default", (768, 480)),
        (picture((640, 400), "1"), "Default", (768, 480)),
        (picture((640, 400), "I;16"), "Default", (768, 480)),
        (picture((640, 400), "CMYK", "JPEG"), "Default", (768, 480)),
        (picture((640, 400), form="WEBP"), "Default", (768, 480)),
        (picture((1, 1)), "Default", (480, 480)),
    ],
)
def test_a_clip_has_the_shape_of_its_image_in_every_format(image: bytes, ratio: str, size: tuple[int, int]) -> None:
    assert size_in(render(image, "x", "480P", ratio, "1")) == size


@pytest.mark.usefixtures("_two_frames")
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_clip_has_the_size_of_its_resolution(resolution: str) -> None:
    short = int(resolution[:-1])
    assert size_in(render(None, "x", resolution, "1:1", "1")) == (short, short)


@pytest.mark.parametrize(
    "image", [b"", b"not an image", picture((64, 64))[:-30], picture((64, 64))[:20], b"\x89PNG\r\n\x1a\n" + bytes(64)]
)
def test_an_unreadable_image_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="the input image can't be read"):
        render(image, "x", "480P", "Default", "1")


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="the input image can't be read"):
        render(picture((100, 100)), "x", "480P", "Default", "1")


# Format and content


def test_a_clip_is_h264_of_at_least_two_seconds_at_24_frames_a_second(koala: bytes) -> None:
    with av.open(io.BytesIO(koala), "r") as container:
        assert "mp4" in container.format.name
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == FPS == 24
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base >= 2
        frames = list(container.decode(stream))
    assert len(frames) >= 48
    stamps = [frame.time for frame in frames]
    assert stamps == pytest.approx([number / 24 for number in range(len(frames))], abs=1e-3)


def test_a_clip_declares_its_colour_space(koala: bytes) -> None:
    with av.open(io.BytesIO(koala), "r") as container:
        codec = container.streams.video[0].codec_context
        assert (int(codec.colorspace), int(codec.color_range)) == (clip_renderer.BT601, clip_renderer.LIMITED)


def test_the_index_precedes_the_media_data(koala: bytes) -> None:
    kinds = list(boxes(koala))
    assert kinds[0] == b"ftyp"
    assert kinds.index(b"moov") < kinds.index(b"mdat")


def test_the_camera_moves_and_the_watermark_does_not(koala: bytes) -> None:
    frames = frames_of(koala)
    first, last = frames[0], frames[-1]
    moved = ImageChops.difference(first, last).convert("L")
    assert sum(moved.histogram()[40:]) > first.width * first.height // 50
    mark, _ = clip_renderer._mark(480)
    margin = 2 * (480 // 80)
    box = (854 - mark.width - margin, 480 - mark.height - margin, 854 - margin, 480 - margin)
    for frame in (first, last):
        seen = frame.crop(box).convert("L")
        bright, dark = lit(seen, mark, over=True), lit(seen, mark, over=False)
        assert bright > dark + 60, "the watermark is lighter than its background"


def lit(seen: Image.Image, mark: Image.Image, *, over: bool) -> float:
    """Mean brightness of the clip where the watermark is opaque, or where it is not."""
    pairs = zip(seen.tobytes(), mark.tobytes(), strict=True)
    levels = [level for level, ink in pairs if (ink > 200 if over else ink < 20)]
    return sum(levels) / len(levels)


@pytest.mark.usefixtures("_brief")
def test_a_clip_shows_the_image_of_its_job() -> None:
    frame = frames_of(render(picture((640, 480)), "x", "480P", "Default", "1"))[3]
    left, right = frame.getpixel((60, 240)), frame.getpixel((580, 240))
    assert left == pytest.approx((30, 60, 90), abs=12)
    assert right == pytest.approx((220, 200, 180), abs=12)


@pytest.mark.usefixtures("_brief")
def test_the_exif_orientation_is_applied() -> None:
    frame = frames_of(render(picture((640, 480), form="JPEG", orientation=6), "x", "480P", "Default", "1"))[3]
    top, bottom = frame.getpixel((240, 60)), frame.getpixel((240, 500))
    assert top == pytest.approx((30, 60, 90), abs=14)
    assert bottom == pytest.approx((220, 200, 180), abs=14)


@pytest.mark.usefixtures("_two_frames")
@pytest.mark.parametrize(
    "prompt", ["", "   ", "x" * 5000, "word " * 900, "ein Bär 熊 🐨\n\tim\u202eBaum", "\x00\x1b[31m"]
)
def test_any_prompt_can_be_rendered(prompt: str) -> None:
    assert len(frames_of(render(None, prompt, "480P", "9:16", "1"))) == 2


# Takes that differ


def distance(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two frames, in levels of 255."""
    levels = ImageChops.difference(one, other).convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(levels, int)
    return levels


@pytest.mark.parametrize("seed", [*range(-3, 50), 2**64 - 2])
def test_consecutive_seeds_have_another_move_and_another_light(seed: int) -> None:
    one, other = (Look.of(str(number), "x") for number in (seed, seed + 1))
    assert one.move != other.move
    assert one.light != other.light


def test_a_seed_that_is_no_number_has_a_look_too() -> None:
    assert Look.of("strange", "x") == Look.of("strange", "x")


def test_a_look_never_leaves_the_picture() -> None:
    for seed in range(48):
        look = Look.of(str(seed), "x")
        for part in (0.0, 0.3, 0.5, 1.0):
            left, top, right, bottom = look.box(part, (1000, 500))
            assert 0 <= left < right <= 1000
            assert 0 <= top < bottom <= 500


@pytest.mark.usefixtures("_brief")
@pytest.mark.parametrize("image", [None, picture((640, 480))], ids=["text", "image"])
def test_the_takes_of_a_sweep_differ_visibly(image: bytes | None) -> None:
    ends = [frames_of(render(image, "rain on a roof", "480P", "Default", str(seed)))[-1] for seed in (1, 2, 3, 4)]
    for at, one in enumerate(ends):
        for other in ends[:at]:
            assert distance(one, other) >= 5


@pytest.mark.usefixtures("_brief")
def test_without_an_image_each_prompt_has_a_scene_of_its_own() -> None:
    prompts = ("rain on a roof", "a rocket over the sea", "a koala on a branch")
    ends = [frames_of(render(None, prompt, "480P", "Default", "1"))[-1] for prompt in prompts]
    for at, one in enumerate(ends):
        for other in ends[:at]:
            assert distance(one, other) >= 10


def test_each_scene_fills_the_picture_below_the_sky_and_is_the_same_each_time() -> None:
    pictures = {}
    for prompt in ("snow", "a koala on a branch", "a boat", "a train"):  # hills, a city, the sea, a forest
        picture = scene(96, 64, prompt)
        assert picture.tobytes() == scene(96, 64, prompt).tobytes()
        colours = picture.crop((0, 48, 96, 64)).getcolors(96 * 16)
        assert colours is None or len(colours) > 3
        pictures[picture.tobytes()] = prompt
    assert len(pictures) == 4


# Reproducibility


CASES = [
    (None, "a koala on a branch", "480P", "Default", "42"),
    (picture((301, 203)), "ein Bär", "480P", "1:1", "-7"),
]
PRINT_DIGESTS = f"""
import hashlib
from wan_async.sandbox import clip_renderer
clip_renderer.SECONDS = 0.25
for case in {CASES!r}:
    print(hashlib.sha256(clip_renderer.render(*case)).hexdigest())
"""


def digests() -> list[str]:
    return [hashlib.sha256(render(*case)).hexdigest() for case in CASES]


@pytest.fixture(scope="module")
def usual() -> list[str]:
    """Digests of short clips, as this process renders them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_renderer, "SECONDS", 0.25)
        return digests()


@pytest.mark.parametrize(("seed", "filled"), [("1", "85"), pytest.param("2", "170", marks=pytest.mark.slow)])
def test_another_process_renders_the_same_bytes(seed: str, filled: str, usual: list[str]) -> None:
    env = {"PYTHONHASHSEED": seed, "MALLOC_PERTURB_": filled, "PATH": ""}
    printed = subprocess.run([sys.executable, "-c", PRINT_DIGESTS], env=env, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == usual


@pytest.mark.usefixtures("_brief")
def test_concurrent_renders_produce_the_same_bytes(usual: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: digests(), range(2))) == [usual] * 2


@pytest.mark.usefixtures("_brief")
@pytest.mark.parametrize("kind", ["0", pytest.param("SSE2", marks=pytest.mark.slow), "SSSE3"])
def test_another_processor_renders_the_same_bytes(kind: str, usual: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clip_renderer.ENCODER, "x264-params", f"{clip_renderer.ENCODER['x264-params']}:asm={kind}")
    assert digests() == usual


@pytest.mark.usefixtures("_brief")
def test_prompt_seed_and_image_each_change_the_clip() -> None:
    made = [
        render(None, "a koala on a branch", "480P", "Default", "42"),
        render(None, "a koala on a branch", "480P", "Default", "43"),
        render(None, "a koala in a branch", "480P", "Default", "42"),
        render(picture((854, 480)), "a koala on a branch", "480P", "Default", "42"),
    ]
    assert len(set(made)) == 4
