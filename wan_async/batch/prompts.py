"""The prompts of a batch: as written, by default, or from captions, with their placeholders filled in."""

from __future__ import annotations

from typing import Any

from wan_async.batch import placeholders
from wan_async.batch.base import Folder
from wan_async.batch.field_names import TEMPLATES
from wan_async.domain.job import DEFAULT_SEED
from wan_async.domain.naming import stem_of
from wan_async.domain.text import shown
from wan_async.domain.validation import FAULTS, fault_of_prompt, is_url

_CAPTION = "{caption}"
_SHOWN_BRACES = 5


class MissingText(Exception):
    """A prompt, or what one of its placeholders stands for, is missing or can't be sent.

    Attributes:
        field: the field that it was written in.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Prompts:
    """Completes the prompts of jobs.

    Args:
        folder: gives the captions.
        default: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.

    Attributes:
        default_fault: what is wrong with `default`, None if nothing is.
    """

    def __init__(self, folder: Folder, default: str) -> None:
        self._folder = folder
        self._captions: dict[str, str | None] = {}
        self._braces: dict[str, None] = {}
        self.default_fault = self.fault_of("prompt", default)
        self._default = "-" if self.default_fault else default  # so that the other problems are found as well

    def notices(self) -> list[str]:
        """Says which braces in prompts are no placeholders."""
        if not self._braces:
            return []
        examples = ", ".join(shown(text) for text in list(self._braces)[:_SHOWN_BRACES])
        more = len(self._braces) - _SHOWN_BRACES
        fields = ", ".join(f"{{{name}}}" for name in placeholders.FIELDS)
        listed = f"{examples} and {more} more" if more > 0 else examples
        verb = "is" if len(self._braces) == 1 else "are"
        return [f"in prompts, {listed} {verb} sent as written; placeholders are {fields}"]

    def fault_of(self, name: str, value: Any) -> str | None:
        """What is wrong with the value of a field as it was written, None if nothing is."""
        if fault := FAULTS[name](value):
            return fault
        if name not in TEMPLATES or "{" not in value:
            return None
        self._braces.update(dict.fromkeys(placeholders.others_in(value)))
        return placeholders.fault_of_placeholders(value)

    def completed(self, fields: dict[str, Any], *, number: int, suffix: str, stem: str | None) -> dict[str, Any]:
        """Gives a job its prompt, and fills in the placeholders of its texts.

        Args:
            fields: the job's fields.
            number: its place in the batch, from 1.
            suffix: what its matrix adds to its name.
            stem: what its image is called, None for the image's own stem.

        Returns:
            The fields with complete texts.

        Raises:
            MissingText: there is no prompt, or no value for a placeholder.
            ValueError: as `Folder.caption`.
        """
        to_fill: tuple[str, ...] = TEMPLATES
        if not fields.get("prompt", "").strip():
            image: str | None = fields.get("image")
            if _CAPTION not in self._default and (caption := self._caption(image)):
                fields = fields | {"prompt": caption}
                to_fill = tuple(name for name in TEMPLATES if name != "prompt")  # a caption is sent as it is
            elif self._default.strip():
                fields = fields | {"prompt": self._default}
            else:
                beside = f", and {self._folder.no_caption(image)}" if image and not is_url(image) else ""
                raise MissingText("prompt", f"is missing{beside}")
        for name in to_fill:
            if "{" in fields.get(name, ""):
                fields = fields | {name: self._filled(fields, name, number, suffix, stem)}
        return fields

    def _filled(self, fields: dict[str, Any], name: str, number: int, suffix: str, stem: str | None) -> str:
        template: str = fields[name]
        image: str | None = fields.get("image")
        if stem is None and image:
            stem = stem_of(image)
        wanted = placeholders.fields_in(template)
        values = {"index": str(number), "seed": str(int(fields.get("seed", DEFAULT_SEED)))}
        if "stem" in wanted:
            if not stem:
                raise MissingText(name, "there is no {stem}: the job has no image")
            values["stem"] = stem
        if "id" in wanted:
            if not stem and "id" not in fields:
                raise MissingText(name, "there is no {id}: the job has neither an id nor an image")
            values["id"] = fields.get("id") or f"{stem}{suffix}"
        if "caption" in wanted:
            caption = self._caption(image)
            if not caption:
                raise MissingText(name, f"there is no {_CAPTION}: {self._no_caption(image)}")
            values["caption"] = caption
        text = placeholders.filled(template, values.__getitem__)
        if fault := fault_of_prompt(text):
            raise MissingText(name, f"{fault} once its placeholders are filled in")
        return text

    def _caption(self, image: str | None) -> str | None:
        if image is None or is_url(image):
            return None
        if image not in self._captions:
            caption = self._folder.caption(image)
            if caption and (fault := fault_of_prompt(caption)):
                raise ValueError(f"its caption {fault}")
            self._captions[image] = caption
            if caption and "{" in caption:
                self._braces.update(dict.fromkeys(placeholders.others_in(caption)))
        return self._captions[image]

    def _no_caption(self, image: str | None) -> str:
        if image is None:
            return "the job has no image"
        return "the image is a URL" if is_url(image) else self._folder.no_caption(image)
