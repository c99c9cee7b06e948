"""A job: what shapes its clip, and its identity. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

from wan_async.domain.image_bytes import ImageBytes, ImageInput
from wan_async.domain.model import WAN, AspectRatio, Model, Parameter, Parameters, Resolution
from wan_async.domain.naming import stem_of
from wan_async.domain.validation import is_url

KEY_DIGITS = 16
"""Hex digits of the content that make an unnamed job's key: short enough for a screen, and 64 bits, so that of a
million jobs two are alike by chance once in thirty million batches. Even then both are rendered: the second becomes
`-2`, and contents are compared whole."""


class AnyJob:
    """A job of any model: a frozen dataclass derives from it, sets `model`, and has a field for each parameter.

    Making one never fails because of a value: `problems` lists what is wrong with it.

    Args:
        id: what to know the job by from one run to the next; without it, its content.
        callback_url: Wiro sends the finished task there.
        values: the parameters by their names in a batch; what isn't given has the model's default.

    Raises:
        TypeError: the model has no such parameter.
    """

    __slots__ = ()

    model: ClassVar[Model]
    id: str | None
    callback_url: str

    def __init__(self, *, id: str | None = None, callback_url: str = "", **values: object) -> None:  # noqa: A002 - the word that batch files use
        if not values.keys() <= self.model.by_name.keys():
            unknown = sorted(values.keys() - self.model.by_name.keys())
            raise TypeError(f"{self.model.name} has no parameter {', '.join(unknown)}")
        put = object.__setattr__
        for name, default, read in self.model.readers:
            value = values.get(name, default)
            put(self, name, value if read is None else read(value))
        put(self, "id", id)
        put(self, "callback_url", callback_url)

    @property
    def image_is_url(self) -> bool:
        """Whether the service fetches the image itself."""
        image = image_of(self)
        return image is not None and is_url(image)

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong with this job.

        Returns:
            Pairs of a field's name and what is wrong with it; none if the job can be sent.
        """
        found: dict[str, str] = {}
        model = self.model
        for field, check in model.checks.items():
            value = getattr(self, field)
            parameter = model.by_name.get(field)
            if value is None and (field == "id" or (parameter is not None and parameter.default is None)):
                continue  # not given
            if fault := check(value):
                found[field] = fault
        for name in model.required:
            if name not in found and not _text(getattr(self, name)).strip():
                found[name] = "is missing"
        return list(found.items())


@dataclass(frozen=True, slots=True, init=False)
class Job(AnyJob):
    """One clip to be made.

    Attributes:
        prompt: what happens in the clip.
        image: the first frame: a path, an http(s) URL, or the image itself. None makes the clip from text alone.
        negative_prompt: what to avoid.
        resolution: `480P`, `580P` or `720P`.
        aspect_ratio: `Default` (the image's own), `16:9`, `9:16` or `1:1`.
        seed: an integer; the text of one is accepted, too.
        id: what to know the job by from one run to the next; without it, its content.
        callback_url: Wiro sends the finished task there.

    Making a job never fails because of a value: `problems` lists what is wrong with it.
    """

    model: ClassVar[Model] = WAN

    prompt: str
    image: str | ImageBytes | None
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
        image: ImageInput | None = None,
        negative_prompt: str = "",
        resolution: Resolution = "480P",
        aspect_ratio: AspectRatio = "Default",
        seed: int | str = 42,
        id: str | None = None,  # noqa: A002 - the word that batch files use
        callback_url: str = "",
    ) -> None:
        AnyJob.__init__(
            self,
            prompt=prompt,
            image=image,
            negative_prompt=negative_prompt,
            resolution=resolution,
            aspect_ratio=aspect_ratio,
            seed=seed,
            id=id,
            callback_url=callback_url,
        )


def _text(value: object) -> str:
    """A value as it is sent."""
    return value if type(value) is str else "" if value is None else str(value)


def value_of(job: AnyJob, parameter: Parameter) -> Any:
    """The job's value of a parameter."""
    return getattr(job, parameter.name)


def values_of(job: AnyJob) -> dict[str, Any]:
    """The job's parameters by their names in a batch, the prompt first."""
    return {name: getattr(job, name) for name in job.model.by_name}


def image_of(job: AnyJob) -> str | None:
    """The path or URL of a job's image; None without one, also where the model takes none.

    An image in memory is named by its hash, since it has no path: see `image_bytes_of`.
    """
    image = None if job.model.image is None else value_of(job, job.model.image)
    return str(image) if isinstance(image, ImageBytes) else image


def local_image_of(job: AnyJob) -> str | None:
    """The path of a job's image; None if it has none, or its image is a URL."""
    return None if job.image_is_url else image_of(job)


def image_bytes_of(job: AnyJob) -> ImageBytes | None:
    """The job's image if the job holds it in memory."""
    image = None if job.model.image is None else value_of(job, job.model.image)
    return image if isinstance(image, ImageBytes) else None


def with_image(job: AnyJob, image: str) -> AnyJob:
    """The job with another image."""
    values = values_of(job) | {job.model.image_name: image}
    return type(job)(id=job.id, callback_url=job.callback_url, **values)


def parameters_of(job: AnyJob, image_url: str) -> Parameters:
    """What is sent for a job.

    Args:
        job: a job without problems.
        image_url: where its image is; empty if it has none, or if the image is sent in the request itself.

    Returns:
        All parameters, defaults included: what is not sent can't be compared with the service's echo later.
    """
    return {
        parameter.wire: image_url if parameter.kind == "image" else _text(value_of(job, parameter))
        for parameter in job.model.parameters
    }


def content_hash(job: AnyJob, image: str) -> str:
    """The identity of the clip that a job asks for.

    Args:
        job: a job without problems.
        image: `sha256:...` of a local image, `url:...` of a remote one, "" for none.

    Returns:
        64 hex digits. Neither `id` nor `callback_url` has a part in them.
    """
    model = job.model
    parts = [model.name, "\n"]
    for name in model.content_lines:
        parts += _text(getattr(job, name)), "\n"
    for name in model.content_texts:
        text = image if name == model.image_name else _text(getattr(job, name))
        parts.append(f"{len(text)}:{text}")  # a length prefix keeps adjacent texts apart
    return sha256("".join(parts).encode()).hexdigest()


def job_stem(job: AnyJob) -> str:
    """The stem of a job's image, empty without one."""
    image = image_of(job)
    return stem_of(image) if image else ""
