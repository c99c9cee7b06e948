"""Pictures for jobs without an image: a scene and its colours by the prompt, whose beginning is written on it."""

from __future__ import annotations

import colorsys
import math
import random
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


def scene(width: int, height: int, prompt: str) -> Image.Image:
    """Draw a scene; the same prompt always gives the same."""
    from PIL import ImageDraw, ImageFilter

    draw = random.Random(prompt)  # noqa: S311 - a picture, no secret
    hue = draw.random()
    picture = _sky(width, height, hue, is_night=draw.random() < 0.3)
    canvas = ImageDraw.Draw(picture)
    x, y = width * (0.25 + 0.5 * draw.random()), height * (0.22 + 0.2 * draw.random())
    radius = min(width, height) * 0.08
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(hue + 0.08, 0.25, 1.0))
    draw.choice(SCENES)(canvas, width, height, hue, draw)
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    _write(picture, prompt)
    return picture


def _sky(width: int, height: int, hue: float, *, is_night: bool) -> Image.Image:
    from PIL import Image

    brightness = (0.55, 0.15) if is_night else (0.95, 0.45)
    low, high = _colour(hue, 0.35, brightness[0]), _colour(hue + 0.55, 0.55, brightness[1])
    sky = Image.new("RGB", (1, 64))
    for row in range(64):
        mix = row / 63
        sky.putpixel((0, row), tuple(round(a + (b - a) * mix) for a, b in zip(high, low, strict=True)))
    return sky.resize((width, height), Image.Resampling.BICUBIC)


def _hills(canvas: ImageDraw.ImageDraw, width: int, height: int, hue: float, draw: random.Random) -> None:
    for layer in range(4):
        base, swing = height * (0.55 + 0.11 * layer), height * (0.1 - 0.015 * layer)
        waves = [(1 + 3 * draw.random(), draw.random() * math.tau) for _ in range(3)]
        ridge = [
            (at, base - swing * sum(math.sin(at / width * math.tau * f + phase) / f for f, phase in waves))
            for at in range(0, width + 8, 8)
        ]
        canvas.polygon([(0, height), *ridge, (width, height)], fill=_shade(hue, layer))


def _city(canvas: ImageDraw.ImageDraw, width: int, height: int, hue: float, draw: random.Random) -> None:
    for layer in range(3):
        at, shade = -draw.random() * width / 20, _shade(hue, layer + 1)
        while at < width:
            across, top = width * (0.05 + 0.07 * draw.random()), height * (0.3 + 0.17 * layer + 0.22 * draw.random())
            canvas.rectangle((at, top, at + across, height), fill=shade)
            lamp = _colour(hue + 0.08, 0.5, 0.95)
            for row in range(int(top) + height // 40, height, height // 14):
                window = at + across * (0.2 + 0.6 * draw.random())
                canvas.rectangle((window, row, window + width / 110, row + height / 80), fill=lamp)
            at += across * 1.1


def _sea(canvas: ImageDraw.ImageDraw, width: int, height: int, hue: float, draw: random.Random) -> None:
    horizon = height * (0.5 + 0.1 * draw.random())
    canvas.rectangle((0, horizon, width, height), fill=_colour(hue + 0.5, 0.55, 0.4))
    for _ in range(90):
        depth = draw.random() ** 1.5
        y, across = horizon + (height - horizon) * depth, width * (0.03 + 0.16 * depth) * (0.5 + draw.random())
        x, thick = width * (1.2 * draw.random() - 0.1), 1 + height * 0.008 * depth
        canvas.ellipse((x, y, x + across, y + thick), fill=_colour(hue + 0.45, 0.35, 0.5 + 0.3 * draw.random()))
    x, mast = width * (0.2 + 0.6 * draw.random()), height * 0.16
    canvas.polygon([(x, horizon - mast), (x, horizon), (x + mast * 0.7, horizon)], fill=_colour(hue + 0.1, 0.1, 0.95))


def _forest(canvas: ImageDraw.ImageDraw, width: int, height: int, hue: float, draw: random.Random) -> None:
    for layer in range(4):
        shade, size = _shade(hue, layer), height * (0.18 + 0.09 * layer)
        base = height * (0.6 + 0.12 * layer)
        canvas.rectangle((0, base, width, height), fill=shade)
        for _ in range(26 - 5 * layer):
            x, tall = width * draw.random(), size * (0.7 + 0.6 * draw.random())
            canvas.polygon([(x - tall * 0.22, base + 2), (x, base - tall), (x + tall * 0.22, base + 2)], fill=shade)


SCENES: tuple[Callable[[ImageDraw.ImageDraw, int, int, float, random.Random], None], ...] = (
    _hills,
    _city,
    _sea,
    _forest,
)


def _shade(hue: float, layer: int) -> Colour:
    """The colour of a layer of a scene: the nearer, the darker."""
    return _colour(hue + 0.5 + 0.03 * layer, 0.45 + 0.08 * layer, 0.55 - 0.11 * layer)


def _write(picture: Image.Image, prompt: str) -> None:
    """Write the prompt's beginning, in up to three lines where most camera moves show it."""
    from PIL import ImageDraw, ImageFont

    width, height = picture.size
    font = ImageFont.load_default(max(12, min(width, height) // 26))
    letters = int(width * 0.55 / font.getlength("n"))
    lines = textwrap.wrap(" ".join(prompt.split()), letters, max_lines=3, placeholder=" ...")
    if lines:
        canvas = ImageDraw.Draw(picture)
        canvas.text((width * 0.24, height * 0.78), "\n".join(lines), font=font, fill=(255, 255, 255), anchor="ld")


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
