"""Output folders with real clips, small and quickly made, for tests of the page in a browser and its benchmark."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from gallery_pages import Take, database, record_batches
from PIL import Image, ImageDraw

FPS = 24
SIZES = {"16:9": (160, 90), "9:16": (90, 160), "1:1": (112, 112), "Default": (144, 96)}
COLOURS = ["#8a3324", "#2f6f4f", "#274b8a", "#8a7a24", "#5b2a86", "#2a8686"]


def film(path: Path, look: int, aspect: str = "Default", seconds: float = 2.5) -> None:
    """Make an MP4 in which a square moves to the right: its colours tell `look`, its place the time."""
    width, height = SIZES[aspect]
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        frames = int(FPS * seconds)
        for number in range(frames):
            picture = Image.new("RGB", (width, height), COLOURS[look % len(COLOURS)])
            left = int((width - 24) * number / (frames - 1))
            ImageDraw.Draw(picture).rectangle(
                (left, 20, left + 24, 44), fill=COLOURS[(look // 6 + look + 1) % len(COLOURS)]
            )
            frame = av.VideoFrame(width, height, "rgb24")
            frame.planes[0].update(_padded(picture.tobytes(), width * 3, frame.planes[0].line_size))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _padded(rows: bytes, width: int, line_size: int) -> bytes:
    """Rows of bytes, each as long as the plane wants it."""
    return b"".join(rows[at : at + width].ljust(line_size, b"\0") for at in range(0, len(rows), width))


def picture(path: Path, look: int = 0) -> Path:
    """Make an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (144, 96), COLOURS[look % len(COLOURS)]).save(path)
    return path


@dataclass(frozen=True)
class Clip:
    """A take with a clip of its own, or a job without one."""

    id: str
    prompt: str = "the cat yawns"
    seed: int = 42
    resolution: str = "480P"
    aspect: str = "Default"
    image: Path | str | None = None
    state: str = "stored"
    look: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def take(self) -> Take:
        spec = {
            "seed": self.seed, "resolution": self.resolution, "aspect_ratio": self.aspect,
            "image": None if self.image is None else str(self.image),
        }  # fmt: skip
        return Take(self.id, self.state, prompt=self.prompt, spec=spec | self.more)


def folder_of(output: Path, clips: Sequence[Clip], *, seconds: float = 2.5) -> None:
    """Make an output folder with a journal and the clips' files, whose hashes the journal has."""
    output.mkdir(parents=True, exist_ok=True)
    record_batches(output, [clip.take for clip in clips])
    for number, clip in enumerate(clips):
        if clip.state == "stored":
            film(output / f"{clip.id}.mp4", number if clip.look is None else clip.look, clip.aspect, seconds)
    set_hashes(output)


def set_hashes(output: Path) -> None:
    """Give the journal the hashes and sizes of the files."""
    with closing(database(output)) as db, db:
        for attempt, number, file in db.execute("SELECT attempt, number, file FROM clips").fetchall():
            data = (output / file).read_bytes() if (output / file).exists() else file.encode()
            values = (hashlib.sha256(data).hexdigest(), len(data), attempt, number)
            db.execute("UPDATE clips SET sha256 = ?, bytes = ? WHERE attempt = ? AND number = ?", values)


def sweep(seeds: Sequence[int], resolutions: Sequence[str], shots: Sequence[tuple[str, Path | None]]) -> Iterator[Clip]:
    """The takes of a matrix: every seed and resolution of every shot, which is a name and an image."""
    for name, image in shots:
        for seed in seeds:
            for resolution in resolutions:
                prompt = f"the {name} moves slowly"
                yield Clip(f"{name}-{seed}-{resolution}", prompt, seed, resolution, image=image)


def sweep_folder(output: Path, count: int, make: Callable[[Path, int], None] = film) -> None:
    """Make an output folder with `count` takes of shots of 12, whose files are links to a few clips, made by `make`."""
    output.mkdir(parents=True)
    images = [picture(output.parent / "images" / f"scene{number}.png", number) for number in range(6)]
    takes = []
    for number in range(count):
        shot, place = divmod(number, 12)
        seed, resolution = place % 4 + 1, ("480P", "580P", "720P")[place // 4]
        spec = {"seed": seed, "resolution": resolution, "image": str(images[shot % len(images)])}
        prompt = f"Scene {shot}: the camera moves slowly, natural light, film grain, a story of {shot} words"
        takes.append(Take(f"s{shot:03}-{seed}-{resolution}", "planned", prompt=prompt, spec=spec))
    record_batches(output, takes)
    masters = [output.parent / f"master{look}.mp4" for look in range(12)]
    for look, master in enumerate(masters):
        make(master, look)
    with closing(database(output)) as db, db:
        db.execute(
            "INSERT INTO attempts (job, number, content, state, form, image, name, intent_at, accepted_at, ended_at, "
            "stored_at, cost, task_id) SELECT key, 1, content, 'stored', '{}', '', name, 1, 1, 8.5, 1764000000, 50000, "
            "position + 500000 FROM jobs"
        )
        for attempt, name in db.execute("SELECT id, name FROM attempts").fetchall():
            os.link(masters[attempt % len(masters)], output / f"{name}.mp4")
            sha256 = hashlib.sha256(name.encode()).hexdigest()
            values = (attempt, f"{name}.mp4", sha256, masters[0].stat().st_size)
            db.execute("INSERT INTO clips VALUES (?, 0, ?, '', ?, ?, 'video/mp4')", values)


def verdicts_text(clips: dict[str, dict[str, Any]]) -> str:
    """A verdicts file."""
    return json.dumps({"verdicts": 1, "folder": "out", "exported_at": 1764000000.0, "clips": clips})
