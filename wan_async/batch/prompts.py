"""The prompts of a batch: as written, by default, or from captions, with their placeholders filled in."""

from __future__ import annotations

from typing import Any

from wan_async.batch import placeholders
from wan_async.batch.base import Folder
from wan_async.batch.missing_values import MissingValues, fault_of_cell
from wan_async.domain.model import Model
from wan_async.domain.naming import stem_of
from wan_async.domain.text import shown
from wan_async.domain.validation import fault_of_prompt, is_url

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
        model: the model that the batch is for.
        default: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.

    Attributes:
        default_fault: what is wrong with `default`, None if nothing is.
        missing: texts that may stand for a missing value.
    """

    def __init__(self, folder: Folder, model: Model, default: str) -> None:
        self._folder = folder
        self._model = model
        self._placeholders = model.prompt_placeholders
        self._captions: dict[str, str | None] = {}
        self._braces: dict[str, None] = {}
        self.missing: MissingValues = MissingValues()
        self.default_fault: str | None = self.fault_of(model.prompt.name, default)
        self._default = "-" if self.default_fault else default  # so that the other problems are found as well

    def notices(self) -> list[str]:
        """Says which texts may be none, and which braces in prompts are no placeholders."""
        missing = self.missing.notices()
        if not self._braces:
            return missing
        examples = ", ".join(shown(text) for text in list(self._braces)[:_SHOWN_BRACES])
        more = len(self._braces) - _SHOWN_BRACES
        fields = ", ".join(f"{{{name}}}" for name in self._placeholders)
        listed = f"{examples} and {more} more" if more > 0 else examples
        verb = "is" if len(self._braces) == 1 else "are"
        return [*missing, f"in prompts, {listed} {verb} sent as written; placeholders are {fields}"]

    def fault_of(self, name: str, value: Any) -> str | None:
        """What is wrong with the value of a field as it was written, None if nothing is."""
        if fault := self._model.checks[name](value):
            return fault
        if name not in self._model.texts or "{" not in value:
            return fault_of_cell(value) if name in self._model.texts else None
        self._braces.update(dict.fromkeys(placeholders.others_in(value, self._placeholders)))
        return placeholders.fault_of_placeholders(value, self._placeholders)

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
        to_fill, prompt_name = self._model.texts, self._model.prompt.name
        if not fields.get(prompt_name, "").strip():
            image: str | None = fields.get(self._model.image_name)
            if _CAPTION not in self._default and (caption := self._caption(image)):
                fields = fields | {prompt_name: caption}
                to_fill = to_fill[1:]  # a caption is sent as it is
            elif self._default.strip():
                fields = fields | {prompt_name: self._default}
            else:
                beside = ""
                if image and not is_url(image):
                    beside = f", and {self._folder.no_caption(image)} (--prompt gives one)"
                raise MissingText(prompt_name, f"is missing{beside}")
        for name in to_fill:
            if "{" in fields.get(name, ""):
                fields = fields | {name: self._filled(fields, name, number, suffix, stem)}
        return fields

    def _filled(self, fields: dict[str, Any], name: str, number: int, suffix: str, stem: str | None) -> str:
        template: str = fields[name]
        image: str | None = fields.get(self._model.image_name)
        if stem is None and image:
            stem = stem_of(image)
        wanted = placeholders.fields_in(template, self._placeholders)
        values = {"index": str(number)}
        for integer in wanted.intersection(self._model.integers):
            given = fields.get(integer, self._model.by_name[integer].default)
            if given is None:
                raise MissingText(name, f"there is no {{{integer}}}: the job doesn't give it")
            values[integer] = str(int(given))
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
        text = placeholders.filled(template, self._placeholders, values.__getitem__)
        if fault := fault_of_prompt(text):
            raise MissingText(name, f"{fault} once its placeholders are filled in")
        return text

    def _caption(self, image: str | None) -> str | None:
        if image is None or is_url(image):
            return None
        if image not in self._captions:
            caption = self._folder.caption(image)
            if caption and (fault := fault_of_prompt(caption) or fault_of_cell(caption)):
                raise ValueError(f"its caption {fault}")
            if caption and self.missing.may_be(caption):
                self.missing.note(caption, f"the caption of {shown(image, whole=True)}")
            self._captions[image] = caption
            if caption and "{" in caption:
                self._braces.update(dict.fromkeys(placeholders.others_in(caption, self._placeholders)))
        return self._captions[image]

    def _no_caption(self, image: str | None) -> str:
        if image is None:
            return "the job has no image"
        if is_url(image):
            return "the image is a URL"
        return f"{self._folder.no_caption(image)} (its .txt gives one)"
