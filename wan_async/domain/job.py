"""A job: what shapes its clip, and its identity. No I/O."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256

from wan_async.domain.model import MODEL, AspectRatio, Resolution
from wan_async.domain.naming import stem_of
from wan_async.domain.validation import FAULTS, fault_of_seed, is_url

DEFAULT_SEED = 42

KEY_DIGITS = 16
"""Hex digits of the content that make an unnamed job's key: short enough for a screen, and 64 bits, so that of a
million jobs two are alike by chance once in thirty million batches. Even then both are rendered: the second becomes
`-2`, and contents are compared whole."""


@dataclass(frozen=True, slots=True, init=False)
class Job:
    """One clip to be made.

    Attributes:
        prompt: what happens in the clip.
        image: the first frame: a path, or an http(s) URL. None makes the clip from text alone.
        negative_prompt: what to avoid.
        resolution: `480P`, `580P` or `720P`.
        aspect_ratio: `Default` (the image's own), `16:9`, `9:16` or `1:1`.
        seed: an integer; integer text is taken too.
        id: what to know the job by from one run to the next; without it, its content.
        callback_url: Wiro sends the finished task there.

    What is wrong with a job is told by `problems`; making one never fails.
    """

    prompt: str
    image: str | None
    negative_prompt: str
    resolution: Resolution
    aspect_ratio: AspectRatio
    seed: int
    id: str | None
    callback_url: str

    def __init__(
        self,
        *,
        prompt: str = "",
        image: str | os.PathLike[str] | None = None,
        negative_prompt: str = "",
        resolution: Resolution = "480P",
        aspect_ratio: AspectRatio = "Default",
        seed: int | str = DEFAULT_SEED,
        id: str | None = None,  # noqa: A002 - the word that batch files use
        callback_url: str = "",
    ) -> None:
        put = object.__setattr__
        put(self, "prompt", prompt)
        put(self, "image", os.fspath(image) or None if isinstance(image, (str, os.PathLike)) else image)
        put(self, "negative_prompt", negative_prompt)
        put(self, "resolution", resolution)
        put(self, "aspect_ratio", aspect_ratio)
        # What is no integer is kept as it came, so that `problems` can name it.
        put(self, "seed", int(seed) if type(seed) is str and fault_of_seed(seed) is None else seed)
        put(self, "id", id)
        put(self, "callback_url", callback_url)

    @property
    def image_is_url(self) -> bool:
        """Whether the service fetches the image itself."""
        return self.image is not None and is_url(self.image)

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong with this job.

        Returns:
            Pairs of a field's name and what is wrong with it; none if the job can be sent.
        """
        found = []
        for field, fault_of in FAULTS.items():
            value = getattr(self, field)
            if field in {"id", "image"} and value is None:
                continue
            if fault := fault_of(value):
                found.append((field, fault))
        if "prompt" not in dict(found) and not self.prompt.strip():
            found.append(("prompt", "is missing"))
        return found


def content_hash(job: Job, image: str) -> str:
    """The identity of the clip that a job asks for.

    Args:
        job: a job without problems.
        image: `sha256:...` of a local image, `url:...` of a remote one, "" for none.

    Returns:
        64 hex digits. Neither `id` nor `callback_url` has a part in them.
    """
    prompt, negative = job.prompt, job.negative_prompt
    # Each text is led by its length, so that no text can pretend to be the end of one field and the start of the next.
    told = (
        f"{MODEL}\n{job.resolution}\n{job.aspect_ratio}\n{job.seed}\n"
        f"{len(image)}:{image}{len(prompt)}:{prompt}{len(negative)}:{negative}"
    )
    return sha256(told.encode()).hexdigest()


def job_stem(job: Job) -> str:
    """The stem of a job's image; without one, text- and 8 digits of its content."""
    return stem_of(job.image) if job.image else ""
