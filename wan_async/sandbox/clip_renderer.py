"""Renders clips: H.264 MP4s of a job's image with a slow camera move and a watermark.

The seed decides camera move, speed and light, so that the clips of a sweep differ as takes of one shot do: consecutive
seeds never have the same move or light. Without an image the prompt decides the scene (see `prompt_pictures`).

Frames are composed in the encoder's format (a plane of brightness, two planes of colour at half the size), which takes
half the time of composing them in RGB.
"""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from wan_async.sandbox.clip_variations import Look
from wan_async.sandbox.prompt_pictures import scene

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL import Image

FPS = 24
SECONDS = 2.5
HEIGHTS = {"480P": 480, "580P": 580, "720P": 720}
RATIOS = {"16:9": Fraction(16, 9), "9:16": Fraction(9, 16), "1:1": Fraction(1)}
WIDEST = Fraction(21, 9)
MARGIN_FACTOR = 1.25
"""Size of the source picture relative to the clip, so that the camera can move."""
ENCODER = {"preset": "superfast", "crf": "24", "x264-params": "cpu-independent=1"}
"""Without `cpu-independent`, x264 produces other bytes on other processors."""
BT601, LIMITED = 6, 1
"""FFmpeg's constants for the colour space and range of the planes."""


def size_of(resolution: str, aspect_ratio: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of a clip in pixels, both even. The resolution is the length of the shorter side.

    The aspect ratio `Default` is that of the image, limited to 21:9 and 9:21, or 16:9 without an image.
    """
    short = HEIGHTS.get(resolution, 480)
    ratio = RATIOS.get(aspect_ratio)
    if ratio is None:
        ratio = Fraction(*image_size) if image_size is not None else RATIOS["16:9"]
        ratio = min(WIDEST, max(1 / WIDEST, ratio))
    width, height = (short * ratio, Fraction(short)) if ratio >= 1 else (Fraction(short), short / ratio)
    return 2 * round(width / 2), 2 * round(height / 2)


def render(image: bytes | None, prompt: str, resolution: str, aspect_ratio: str, seed: str) -> bytes:
    """Render an MP4 of 2.5 s at 24 frames/s; the same arguments always give the same bytes.

    Args:
        image: the bytes of an image in a format that Pillow reads; None renders a landscape.
        prompt: decides the scene where there is no image; its beginning is written on it.
        resolution: `480P`, `580P` or `720P`.
        aspect_ratio: see `size_of`.
        seed: decides camera move, speed and light.

    Raises:
        ValueError: the image can't be read.
    """
    import av

    picture = _open(image) if image is not None else None
    size = size_of(resolution, aspect_ratio, picture.size if picture is not None else None)
    shown = (int(size[0] * MARGIN_FACTOR), int(size[1] * MARGIN_FACTOR))
    source = _cover(picture, *shown) if picture is not None else scene(*shown, prompt)
    film = _Film(source, size, Look.of(seed, prompt))
    with tempfile.TemporaryDirectory() as folder:  # faststart needs a file that the muxer can read again
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = *size, "yuv420p", 1
            stream.colorspace = stream.color_primaries = stream.color_trc = BT601
            stream.color_range = LIMITED
            frames = int(FPS * SECONDS)
            for number in range(frames):
                container.mux(stream.encode(film.frame(number / (frames - 1))))
            container.mux(stream.encode(None))
        return path.read_bytes()


def _open(data: bytes) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the input image can't be read: {error}") from None


def _cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Crop a picture to the clip's shape."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


class _Film:
    """Composes the frames of a clip: a camera move over a picture, and a fixed watermark."""

    def __init__(self, source: Image.Image, size: tuple[int, int], look: Look) -> None:
        from PIL import Image

        self._size = size
        self._look = look
        bright, blue, red = look.lit(*source.convert("YCbCr").split())
        halved = ((source.width + 1) // 2, (source.height + 1) // 2)
        # limited range: brightness from 16 to 235, colours from 16 to 240
        bright = bright.point([16 + round(level * 219 / 255) for level in range(256)])
        colours = [
            plane.point([128 + round((level - 128) * 224 / 255) for level in range(256)]).resize(
                halved, Image.Resampling.BOX
            )
            for plane in (blue, red)
        ]
        mark, opacity = _mark(size[1])
        small = (mark.width // 2, mark.height // 2)
        grey = Image.new("L", small, 128)
        self._planes = [
            (bright, 1, mark, opacity),
            *((plane, 2, grey, opacity.resize(small, Image.Resampling.BOX)) for plane in colours),
        ]

    def frame(self, part: float) -> VideoFrame:
        """Compose the frame at a fraction (0 to 1) of the clip's duration."""
        from av import VideoFrame
        from PIL import Image

        width, height = self._size
        frame = VideoFrame(width, height, "yuv420p")
        frame.colorspace, frame.color_range = BT601, LIMITED
        margin = 2 * (height // 80)
        for source, halving, mark, opacity in self._planes:
            across, down = width // halving, height // halving
            box = self._look.box(part, source.size)
            plane = source.resize((across, down), Image.Resampling.BILINEAR, box=box)
            corner = (across - mark.width - margin // halving, down - mark.height - margin // halving)
            plane.paste(mark, corner, opacity)
            target = frame.planes[0 if halving == 1 else 1 + (source is self._planes[2][0])]
            target.update(plane.tobytes("raw", "L", target.line_size, 1))
        return frame


def _mark(height: int) -> tuple[Image.Image, Image.Image]:
    """Brightness and opacity of the watermark "sandbox", with even width and height."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(max(10, height // 36))
    left, top, right, bottom = font.getbbox("sandbox")
    size = (2 * (int(right - left) // 2 + 6), 2 * (int(bottom - top) // 2 + 4))
    mark, opacity = Image.new("L", size, 16), Image.new("L", size, 90)
    for layer, ink in ((mark, 235), (opacity, 200)):
        ImageDraw.Draw(layer).text((6 - left, 4 - top), "sandbox", font=font, fill=ink)
    return mark, opacity
