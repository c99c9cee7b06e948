"""Remote models: their parameters, and everything that is derived from them.

`WAN` is the one model that this package offers. No other module names its parameters, save the signature of `Job`: the
content hash, the form of Run, reconciliation, batch files and their schema, placeholders, prices, sidecars and flags
all go through a `Model`. Another model is another instance, and a class derived from `AnyJob`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, get_args

from wan_async.domain import validation
from wan_async.domain.image_bytes import read_image

UPLOAD_LIMIT_BYTES = 100_000_000
"""File Upload takes 100 MB at most (Wiro's API documentation)."""

CALLBACK_FIELD = "callbackUrl"
"""Where Wiro sends the finished task: a field of Run for every model, and no parameter of any."""

Kind = Literal["text", "choice", "integer", "image"]
Parameters = dict[str, str]
"""The parameters of one Run by their names on the wire, all as text, in the order in which they are sent."""

_RESERVED_NAMES = frozenset({"id", "callback_url", "matrix", "model", "problems", "image_is_url", "label"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a model.

    Attributes:
        wire: its name in requests and in the service's echo.
        name: its name in batch files, as an attribute of a job, and, with dashes, as a flag.
        kind: what values it takes. An image is a path or an http(s) URL, or None.
        label: what stands before its value on a page; by default its name.
        about: what it does, for people: a sentence without its full stop.
        default: what a job has that doesn't give it.
        aliases: further names that batch files may use; `wire` and `file_field` are accepted anyway.
        choices: the values of a choice.
        limits: the smallest and the largest value of an integer.
        required: whether a job without it is invalid.
        in_content: whether it shapes the clip, so that it is part of the job's identity.
        selects_price: whether the price of a task may depend on it.
        file_field: of an image, the field that carries its bytes where it isn't uploaded ahead.
    """

    wire: str
    name: str
    kind: Kind
    label: str = ""
    about: str = ""
    default: str | int | None = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None
    required: bool = False
    in_content: bool = True
    selects_price: bool = False
    file_field: str = ""

    def fault_of(self, value: object) -> str | None:
        """What is wrong with a value, in words; None if nothing is."""
        return self.check(value)

    @property
    def check(self) -> Callable[[object], str | None]:
        """The check of a value: what is wrong with it, or None."""
        match self.kind:
            case "text":
                return validation.fault_of_prompt
            case "image":
                return validation.fault_of_image
            case "integer":
                return partial(validation.fault_of_integer, limits=self.limits)
        noun = self.name.replace("_", " ")
        article = "an" if noun[0] in "aeiou" else "a"
        return partial(validation.fault_of_choice, what=f"{article} {noun}", choices=self.choices)

    def read(self, value: Any) -> Any:
        """A value as a job keeps it.

        The text of an integer is read as the integer, a choice as the model spells it, an image as by `read_image`.
        What is invalid is returned as it is, so that it can be reported.
        """
        match self.kind:
            case "integer" if type(value) is str and self.fault_of(value) is None:
                return int(value)
            case "choice":
                return value if value in self.choices else validation.choice_meant(value, self.choices) or value
            case "image":
                return read_image(value)
        return value


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A remote model. Two are the same only if they are one object.

    Attributes:
        owner: whose it is, as in its URL.
        project: what it is called there.
        parameters: all of them, in the order in which they are sent.

    Raises:
        ValueError: the parameters contradict each other, or none of them is a required text.
    """

    owner: str
    project: str
    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        wires = [wire for each in self.parameters for wire in (each.wire, each.file_field) if wire]
        names = [each.name for each in self.parameters]
        if len({*wires, CALLBACK_FIELD}) <= len(wires) or len({*names, *_RESERVED_NAMES}) < len(names) + len(
            _RESERVED_NAMES
        ):
            raise ValueError(f"{self.name}: a parameter's name is used twice or reserved")
        if not any(each.kind == "text" and each.required for each in self.parameters):
            raise ValueError(f"{self.name}: a required text is needed, by which its tasks are recognised")
        if sum(each.kind == "image" for each in self.parameters) > 1:
            raise ValueError(f"{self.name}: more than one image is not supported")
        for each in self.parameters:
            if each.kind == "choice" and any("\n" in choice for choice in each.choices):
                raise ValueError(f"{self.name}: {each.name} has a choice of more than one line")
            if each.kind in ("choice", "integer") and each.default in ("", None) and not each.required:
                raise ValueError(f"{self.name}: {each.name} needs a default")
            if each.default not in ("", None) and (fault := each.fault_of(each.default)):
                raise ValueError(f"{self.name}: the default of {each.name} {fault}")

    @property
    def name(self) -> str:
        """Owner and project, as the service lists its tasks by."""
        return f"{self.owner}/{self.project}"

    def may_have_sent(self, form: Mapping[str, str]) -> bool:
        """Whether the form of an attempt may be one of this model's Runs."""
        return self.prompt.wire in form and form.keys() <= {each.wire for each in self.parameters}

    @cached_property
    def prompt(self) -> Parameter:
        """The first required text: captions fill it, and a task that doesn't show it is never recognised as ours."""
        return next(each for each in self.parameters if each.kind == "text" and each.required)

    @cached_property
    def image(self) -> Parameter | None:
        """The parameter that takes an image, if there is one."""
        return next((each for each in self.parameters if each.kind == "image"), None)

    @cached_property
    def image_name(self) -> str:
        """The image's name in a batch, empty if the model takes none."""
        return self.image.name if self.image is not None else ""

    @cached_property
    def text_fields(self) -> tuple[str, ...]:
        """Wire names of all that is compared as text: every parameter but the image."""
        return tuple(each.wire for each in self.parameters if each.kind != "image")

    @cached_property
    def content_fields(self) -> tuple[str, ...]:
        """Wire names of the text fields that are part of a job's identity."""
        return tuple(each.wire for each in self.parameters if each.kind != "image" and each.in_content)

    @cached_property
    def content_lines(self) -> tuple[str, ...]:
        """Names in a batch of the parameters that a content hash takes as lines."""
        return tuple(each.name for each in self.parameters if each.in_content and each.kind in ("choice", "integer"))

    @cached_property
    def content_texts(self) -> tuple[str, ...]:
        """Names in a batch of the parameters that a content hash takes with their lengths, the image included."""
        return tuple(each.name for each in self.parameters if each.in_content and each.kind in ("text", "image"))

    @cached_property
    def image_fields(self) -> tuple[str, ...]:
        """Wire names under which the service may show the image."""
        return (self.image.wire, self.image.file_field or self.image.wire) if self.image is not None else ()

    @cached_property
    def price_fields(self) -> tuple[str, ...]:
        """Wire names of the parameters that the price of a task may depend on."""
        return tuple(each.wire for each in self.parameters if each.selects_price)

    def price_group(self, parameters: Mapping[str, str]) -> str:
        """The name of the jobs that cost as much as one with these parameters: `720P`, or `720P 16:9`.

        It has the values that the price may depend on: the first of them, and others where they are no defaults.
        """
        selecting = [each for each in self.parameters if each.selects_price]
        values = [parameters.get(each.wire, "") for each in selecting]
        return " ".join(
            value
            for place, (each, value) in enumerate(zip(selecting, values, strict=True))
            if place == 0 or value != str(each.default)
        )

    @cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by their names in a batch, the prompt first."""
        return {each.name: each for each in (self.prompt, *self.parameters)}

    @cached_property
    def readers(self) -> tuple[tuple[str, str | int | None, Callable[[Any], Any] | None], ...]:
        """Name in a batch, default, and how a value is read, of each parameter, the prompt first; texts are kept."""
        return tuple(
            (name, each.default, None if each.kind == "text" else each.read) for name, each in self.by_name.items()
        )

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Names in a batch of what every job must give; the prompt first."""
        return tuple(name for name, each in self.by_name.items() if each.required)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Names in a batch of the texts, which placeholders are filled into; the prompt first."""
        return tuple(name for name, each in self.by_name.items() if each.kind == "text")

    @cached_property
    def integers(self) -> tuple[str, ...]:
        """Names in a batch of the integers."""
        return tuple(name for name, each in self.by_name.items() if each.kind == "integer")

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Names in a batch of the choices."""
        return tuple(name for name, each in self.by_name.items() if each.kind == "choice")

    @cached_property
    def name_placeholders(self) -> tuple[str, ...]:
        """What the template of clips' names may hold."""
        return ("id", "stem", "index", *self.integers, *self.choices)

    @cached_property
    def prompt_placeholders(self) -> tuple[str, ...]:
        """What is filled in in texts."""
        return ("caption", "stem", "id", "index", *self.integers)

    @cached_property
    def checks(self) -> Mapping[str, Callable[[Any], str | None]]:
        """For each field of a job, `id` and `callback_url` included, what tells the fault of a value, or None."""
        checks: dict[str, Callable[[Any], str | None]] = {name: each.check for name, each in self.by_name.items()}
        return checks | {"id": validation.fault_of_id, "callback_url": validation.fault_of_callback}

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Further names of a job's fields, with the field they stand for: people paste from the model's page."""
        found = {
            other: each.name
            for each in self.parameters
            for other in (each.wire, each.file_field, *each.aliases)
            if other and other != each.name
        }
        return found | {CALLBACK_FIELD: "callback_url"}


Resolution = Literal["480P", "580P", "720P"]
AspectRatio = Literal["Default", "16:9", "9:16", "1:1"]
RESOLUTION, SEED = "resolution", "seed"
"""The parameters that are varied when a clip is rendered again."""
SEED_BITS = 64
"""Random generators take as many."""

WAN = Model(
    owner="Wan-AI",
    project="Wan2.2-TI2V-5B-Image-to-Video-Fast",
    parameters=(
        Parameter(
            wire="inputImageUrl",
            name="image",
            kind="image",
            default=None,
            file_field="inputImage",
            about="The first frame",
        ),
        Parameter(wire="prompt", name="prompt", kind="text", required=True, about="What happens in the clip"),
        Parameter(wire="negativePrompt", name="negative_prompt", kind="text", label="avoids", about="What to avoid"),
        Parameter(
            wire="resolution",
            name="resolution",
            kind="choice",
            choices=get_args(Resolution),
            default="480P",
            selects_price=True,
            about="The size of the clip",
        ),
        Parameter(
            wire="aspectRatio",
            name="aspect_ratio",
            kind="choice",
            choices=get_args(AspectRatio),
            default="Default",
            selects_price=True,
            about="The shape of the clip; Default is the image's own",
        ),
        Parameter(
            wire="seed",
            name="seed",
            kind="integer",
            default=42,
            limits=(1 - 2**SEED_BITS, 2**SEED_BITS - 1),
            about="The same seed and the same job make the same clip",
        ),
    ),
)
"""Wan2.2-TI2V-5B-Image-to-Video-Fast (the model's page): without an image it makes a clip from text alone."""
