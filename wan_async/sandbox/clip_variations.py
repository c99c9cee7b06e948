"""What a seed decides about a clip: camera move, speed and light."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Planes = tuple["Image.Image", "Image.Image", "Image.Image"]
"""Brightness and the two planes of colour of a picture (YCbCr)."""


@dataclass(frozen=True, slots=True)
class Move:
    """A camera move, from its first frame to its last.

    Attributes:
        scale: the visible part of the picture's width and height.
        at: where it is: -1 is the left (upper) end of the room that the scale leaves, 1 the right (lower) one.
    """

    scale: tuple[float, float]
    at: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Light:
    """A light on a picture.

    Attributes:
        gamma: below 1 it is brighter.
        contrast: around the middle.
        warmth: what is added to red and taken from blue, in levels of 255.
        from_side: where it comes from: -1 left, 1 right, 0 everywhere.
    """

    gamma: float = 1.0
    contrast: float = 1.0
    warmth: int = 0
    from_side: int = 0


MOVES = (
    Move((0.84, 0.84), ((0.8, 0), (-0.8, 0))),  # pan left
    Move((0.98, 0.72), ((0, 0), (0, -0.1))),  # push in
    Move((0.84, 0.84), ((-0.8, 0.2), (0.8, -0.2))),  # pan right
    Move((0.70, 0.98), ((0.3, 0.3), (0, 0))),  # pull out
    Move((0.82, 0.82), ((0, 0.9), (0, -0.9))),  # tilt up
    Move((0.94, 0.70), ((-0.6, 0.4), (0.9, -0.5))),  # push in to the upper right
    Move((0.82, 0.82), ((0, -0.9), (0, 0.9))),  # tilt down
    Move((0.72, 0.94), ((-0.9, 0.7), (0.4, -0.4))),  # pull out from the lower left
)
LIGHTS = (
    Light(gamma=1.3, contrast=0.9, warmth=-10, from_side=1),  # dusk
    Light(),  # as it is
    Light(gamma=0.9, warmth=14, from_side=-1),  # evening sun
    Light(contrast=1.15, warmth=-14),  # overcast
    Light(gamma=0.75, contrast=0.9, warmth=4),  # bright
    Light(gamma=1.15, contrast=1.2, warmth=18, from_side=1),  # last light
)
SPEEDS = (1.0, 0.55, 0.8)
"""How much of a move is made."""
SHADE = 105
"""How dark the side is that the light doesn't come from, of 255."""


@dataclass(frozen=True, slots=True)
class Look:
    """Camera move, speed and light of a clip."""

    move: Move
    speed: float
    light: Light

    @classmethod
    def of(cls, seed: str, prompt: str) -> Look:
        """The look of a seed. The prompt changes nothing but the speed, and that a little."""
        try:
            number = int(seed)
        except ValueError:
            number = random.Random(seed).getrandbits(32)  # noqa: S311 - a picture, no secret
        little = 0.06 * random.Random(f"{seed} {prompt}").random()  # noqa: S311 - likewise
        speed = SPEEDS[number // len(MOVES) % len(SPEEDS)] - little
        return cls(MOVES[number % len(MOVES)], speed, LIGHTS[number % len(LIGHTS)])

    def box(self, part: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The visible rectangle at a fraction of the clip's duration, in pixels of a picture of this size."""
        done = self.speed * part * part * (3 - 2 * part)
        scale = _between(*self.move.scale, done)
        (left, top), (right, bottom) = self.move.at
        width, height = size[0] * scale, size[1] * scale
        x = (size[0] - width) / 2 * (1 + _between(left, right, done))
        y = (size[1] - height) / 2 * (1 + _between(top, bottom, done))
        return x, y, x + width, y + height

    def lit(self, bright: Image.Image, blue: Image.Image, red: Image.Image) -> Planes:
        """A picture's planes in this light."""
        from PIL import Image, ImageChops

        light = self.light
        if light.from_side:
            fall = Image.linear_gradient("L").rotate(90 * light.from_side).resize(bright.size)
            shade = [SHADE + level * (255 - SHADE) // 255 for level in range(256)]
            bright = ImageChops.multiply(bright, fall.point(shade))
        curve = [255 * (level / 255) ** light.gamma for level in range(256)]
        curve = [min(255, max(0, round(128 + (level - 128) * light.contrast))) for level in curve]
        cooler, warmer = _shifted(-light.warmth), _shifted(light.warmth)
        return bright.point(curve), blue.point(cooler), red.point(warmer)


def _between(first: float, last: float, part: float) -> float:
    return first + (last - first) * part


def _shifted(by: int) -> list[int]:
    return [min(255, max(0, level + by)) for level in range(256)]
