"""Real clips: H.264 MP4s from a job's own image, with a slow camera move and a discreet mark."""

from __future__ import annotations

import io
import math
import random
import tempfile
import textwrap
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FPS = 24
SECONDS = 2.5
HEIGHTS = {"480P": 480, "580P": 580, "720P": 720}
RATIOS = {"16:9": Fraction(16, 9), "9:16": Fraction(9, 16), "1:1": Fraction(1)}
WIDEST = Fraction(21, 9)


def size_of(resolution: str, aspect_ratio: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height in pixels, both even: the shorter side is what the resolution says.

    `Default` takes the image's own shape, within 21:9 and 9:21; 16:9 without an image.
    """
    short = HEIGHTS.get(resolution, 480)
    ratio = RATIOS.get(aspect_ratio)
    if ratio is None:
        ratio = Fraction(*image_size) if image_size is not None else RATIOS["16:9"]
        ratio = min(WIDEST, max(1 / WIDEST, ratio))
    width, height = (short * ratio, Fraction(short)) if ratio >= 1 else (Fraction(short), short / ratio)
    return 2 * round(width / 2), 2 * round(height / 2)


def render(image: bytes | None, prompt: str, resolution: str, aspect_ratio: str, seed: str) -> bytes:
    """An MP4 of 2.5 s at 24 frames/s.

    Raises:
        ValueError: the image can't be read.
    """
    import av
    from PIL import Image

    picture = _open(image) if image is not None else None
    width, height = size_of(resolution, aspect_ratio, picture.size if picture is not None else None)
    draw = random.Random(f"{seed} {prompt}")  # noqa: S311 - a picture, no secret
    source = _cover(picture, width, height) if picture is not None else _landscape(width, height, prompt, draw)
    mark = _mark(height)
    with tempfile.TemporaryDirectory() as folder:  # to put the index first, the muxer reads its own file once more
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
            frames = int(FPS * SECONDS)
            move = _Move(source.size, draw)
            for number in range(frames):
                frame = source.resize((width, height), Image.Resampling.BILINEAR, box=move.box(number / (frames - 1)))
                frame.paste(mark, (width - mark.width - height // 40, height - mark.height - height // 40), mark)
                picture_of = av.VideoFrame.from_image(frame)  # type: ignore[no-untyped-call] # PyAV has no types for it
                container.mux(stream.encode(picture_of))
            container.mux(stream.encode(None))
        return path.read_bytes()


def _open(data: bytes) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the input image can't be read: {error}") from None


def _cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture cropped to the clip's shape, a little larger than the clip, so that there is room to move."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (int(width * 1.25), int(height * 1.25)), Image.Resampling.LANCZOS)


class _Move:
    """A slow camera move: a push in or out, with a drift, eased at both ends."""

    def __init__(self, source: tuple[int, int], draw: random.Random) -> None:
        self._width, self._height = source
        near, far = 0.84, 0.98
        self._from, self._to = (far, near) if draw.random() < 0.7 else (near, far)
        angle = draw.random() * math.tau
        self._drift = (math.cos(angle), math.sin(angle))

    def box(self, part: float) -> tuple[float, float, float, float]:
        """What the camera sees after this part of the clip, in pixels of the source."""
        eased = part * part * (3 - 2 * part)
        scale = self._from + (self._to - self._from) * eased
        width, height = self._width * scale, self._height * scale
        room_x, room_y = (self._width - width) / 2, (self._height - height) / 2
        left = room_x + room_x * self._drift[0] * (2 * eased - 1)
        top = room_y + room_y * self._drift[1] * (2 * eased - 1)
        return left, top, left + width, top + height


def _mark(height: int) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(max(10, height // 36))
    left, top, right, bottom = font.getbbox("sandbox")
    mark = Image.new("RGBA", (int(right - left) + 12, int(bottom - top) + 8), (0, 0, 0, 90))
    ImageDraw.Draw(mark).text((6 - left, 4 - top), "sandbox", font=font, fill=(255, 255, 255, 200))
    return mark


def _landscape(width: int, height: int, prompt: str, draw: random.Random) -> Image.Image:
    """For a job without an image: a sky, a sun and hills of its own, with the prompt's words."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    width, height = int(width * 1.25), int(height * 1.25)
    hue = draw.random()
    low, high = _colour(hue, 0.35, 0.95), _colour(hue + 0.55, 0.55, 0.45)
    sky = Image.new("RGB", (1, 64))
    for row in range(64):
        mix = row / 63
        sky.putpixel((0, row), tuple(round(a + (b - a) * mix) for a, b in zip(high, low, strict=True)))
    picture = sky.resize((width, height), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    x, y, radius = width * (0.25 + 0.5 * draw.random()), height * (0.25 + 0.2 * draw.random()), height * 0.07
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(hue + 0.08, 0.25, 1.0))
    for layer in range(4):
        base, swing = height * (0.55 + 0.11 * layer), height * (0.1 - 0.015 * layer)
        waves = [(1 + 3 * draw.random(), draw.random() * math.tau) for _ in range(3)]
        ridge = [
            (at, base - swing * sum(math.sin(at / width * math.tau * f + phase) / f for f, phase in waves))
            for at in range(0, width + 8, 8)
        ]
        shade = _colour(hue + 0.5 + 0.03 * layer, 0.45 + 0.08 * layer, 0.55 - 0.11 * layer)
        canvas.polygon([(0, height), *ridge, (width, height)], fill=shade)
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    words = textwrap.shorten(" ".join(prompt.split()), 70, placeholder=" ...")
    font = ImageFont.load_default(max(12, height // 30))
    ImageDraw.Draw(picture).text((width * 0.12, height * 0.84), words, font=font, fill=(255, 255, 255))
    return picture


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
