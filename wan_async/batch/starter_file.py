"""The text of a first batch file for a folder of images: commented, and complete where captions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wan_async.domain.batch import DEFAULT_NAME
from wan_async.domain.model import SEED, Model, Parameter
from wan_async.domain.validation import fault_of_image, is_url

_COLUMN = 36
"""Where comments after a value begin."""
_ESCAPES = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the batch.

    Attributes:
        image: its path from the batch file.
        prompt: what happens in the clip, empty if that is to be filled in.
        id: a name for it, where its own is that of another image; else empty.
        fault: why the image can't be uploaded: its job is a comment then.
    """

    image: str
    prompt: str = ""
    id: str = ""
    fault: str = ""


def starter(entries: Sequence[Entry], model: Model, *, schema: str, file: str, output: str) -> str:
    """The text of a batch file in YAML.

    Args:
        entries: its jobs.
        model: the model that it is for.
        schema: the path of the batch file's JSON Schema, for editors.
        file: the path of the batch file, as a person would type it.
        output: where clips go unless the file says otherwise.
    """
    lines = [
        f"# yaml-language-server: $schema={schema}",
        "# A batch of clips. A line that begins with # has no effect until the # is taken away.",
        f"#   wan-async plan {file}",
        "#       shows what it would do and cost, and all that is wrong with it; spends nothing",
        f"#   wan-async run {file}",
        "#       renders it; the same command again goes on where the last one stopped",
        "",
        line("# ", "output", output, "the folder of the clips, from this file"),
        line("# ", "name", quoted(DEFAULT_NAME), " ".join(f"{{{name}}}" for name in model.name_placeholders)),
        "",
        "defaults:",
    ]
    lines += [_default(each) for each in model.parameters if each.kind != "image" and each is not model.prompt]
    lines += ["", "jobs:"]
    first = next((entry for entry in entries if not entry.fault), None)
    for entry in entries:
        path = entry.image if not (fault_of_image(entry.image) or is_url(entry.image)) else f"./{entry.image}"
        fields = [*([("id", quoted(entry.id))] if entry.id else []), (model.image_name, quoted(path))]
        comment = "# " if entry.fault else ""
        if entry.fault:
            lines.append(f"  # {' '.join(entry.fault.split())}")
        for number, (name, value) in enumerate(fields):
            lines.append(line(f"  {comment}{'  ' if number else '- '}", name, value))
        missing = "" if entry.prompt else "fill in: what happens?"
        lines.append(line(f"  {comment}  ", model.prompt.name, quoted(entry.prompt), missing))
        if entry is first:
            lines.append(line("    # ", "matrix", f"{{{SEED}: [1, 2]}}", "two takes of it; every job may have this"))
    return "\n".join([*lines, ""])


def _default(parameter: Parameter) -> str:
    """The line of a parameter; a choice that selects the price is active, so that the price is in view."""
    match parameter.kind:
        case "choice":
            about = ", ".join(parameter.choices)
            return line("  " if parameter.selects_price else "  # ", parameter.name, _plain(parameter.default), about)
        case "integer":
            return line("  # ", parameter.name, str(parameter.default), _sentence(parameter.about))
        case _:
            return line("  # ", parameter.name, '"blurry, text"', _sentence(parameter.about))


def line(indent: str, name: str, value: str, comment: str = "") -> str:
    """A line of YAML: a key, its value, and a comment in a column of its own."""
    text = f"{indent}{name}: {value}"
    return f"{text.ljust(_COLUMN)} # {comment}" if comment else text


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isalnum() else quoted(text)


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:]


def quoted(text: str) -> str:
    """A text in double quotes, as YAML reads it back."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
