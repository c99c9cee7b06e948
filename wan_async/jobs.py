"""What is to be rendered: jobs, their identity, and the names of their clips. Nothing here touches a disk.

A job is known by three things that must not be confused:

- its *content*: a hash of all that shapes the clip (model, image, prompts, resolution, aspect ratio, seed) and of
  nothing else. Equal content is the same clip, whatever it is called; that is what keeps it from being paid for twice.
- its *key*: the `id` that its author gave it, or else the content. A journal finds it by this from one run to the next.
- its *name*: the file that the clip ends up in. It is safe on every file system, and no other job of the batch has it,
  not even one that differs in case only.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote, urlsplit

from wan_async.errors import InvalidBatch, Problem
from wan_async.wire import ASPECT_RATIOS, MODEL, RESOLUTIONS, AspectRatio, Resolution

DEFAULT_NAME = "{id}"
NAME_FIELDS = ("id", "stem", "index", "seed", "resolution", "aspect_ratio")
NAME_LIMIT_BYTES = 120
"""Short enough that `NAME-2.json.part` fits every file system (the strictest in use, eCryptfs, takes 143 bytes), and
that a path on Windows keeps half of its 260 characters for the folder."""
ID_LIMIT = 255
"""Characters in an `id`: it is shown on screens and in every event."""
DEFAULT_SEED = 42
SEED_LIMIT = 2**64
"""A seed lies strictly between the negative of this and this: random generators take 64 bits."""
KEY_DIGITS = 16
"""Hex digits of the content that make an unnamed job's key: short enough for a screen, and 64 bits, so that of a
million jobs two are alike by chance once in thirty million batches. Even then both are rendered: the second becomes
`-2`, and contents are compared whole."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*", re.IGNORECASE)
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_FIELD = re.compile(r"\{([^{}]*)\}")
# What needs no second look: ASCII that is harmless everywhere and isn't one of Windows' devices.
_DEVICE = r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\.|$)"
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
_HARMLESS = re.compile(rf"(?i:(?!{_DEVICE}))[A-Za-z0-9_](?:[A-Za-z0-9_ .-]{{0,{NAME_LIMIT_BYTES - 2}}}[A-Za-z0-9_-])?")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp"})
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol by category, yet nothing to see


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


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job with its place in a batch.

    Attributes:
        index: its place in the batch, from 0.
        job: what to render; a local image's path is already resolved.
        name: its clip's file name without the extension.
        label: what `{id}` stands for: the job's `id`, or the name made up for it. `--only` looks at this.
        where: `file:line:column`, or the image's path for a folder, or "" in the library.
    """

    index: int
    job: Job
    name: str
    label: str
    where: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that a batch asks for.

    Attributes:
        jobs: in the order of the batch.
        output: the output folder as the batch writes it (relative to its own place), or None.
        source: what the batch was read from, for messages.
        notices: what its author should know, though nothing is wrong.
    """

    jobs: list[PlannedJob]
    output: str | None
    source: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A planned job whose image has been read, so that it has its identity.

    Attributes:
        planned: the job and its place.
        key: what a journal knows it by, unique in the batch.
        content: the hash of all that shapes the clip: 64 hex digits.
        image: `sha256:...` of a local image, `url:...`, or "" for none.
    """

    planned: PlannedJob
    key: str
    content: str
    image: str


def is_url(image: str) -> bool:
    """Whether an image is an http(s) URL rather than a path."""
    return image[:4].lower() == "http" and _URL.match(image) is not None


def from_jobs(jobs: Iterable[Job], name: str = DEFAULT_NAME) -> Batch:
    """Makes a batch of jobs written in Python.

    Args:
        jobs: the jobs, in order.
        name: the template of the clips' names, see `Namer`.

    Returns:
        The batch.

    Raises:
        InvalidBatch: with everything that is wrong with any of them.
    """
    try:
        namer = Namer(name)
    except ValueError as error:
        raise InvalidBatch([Problem("", f"name: {error}")]) from None
    problems: list[Problem] = []
    for index, job in enumerate(jobs):
        faults = job.problems()
        problems += [Problem("", f"jobs[{index}].{field}: {fault}") for field, fault in faults]
        collision = namer.plan(job, "", index=index) if not faults else None
        if collision:
            problems.append(Problem("", f"jobs[{index}]: {collision}"))
    if problems:
        raise InvalidBatch(problems)
    return Batch(namer.planned, None, "")


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


def enlist(batch: Batch, digests: Mapping[str, str]) -> list[Enlisted]:
    """Gives every job of a batch its key and content.

    The key is the `id`, or the first `KEY_DIGITS` digits of the content; where that is taken already by an exact
    repetition, `-2`, `-3` and so on is added.

    Args:
        batch: the batch.
        digests: the sha256 of each local image, by its path as the jobs have it.

    Returns:
        The jobs in the order of the batch.

    Raises:
        InvalidBatch: if an image has no digest, or one `id` stands for two different contents.
    """
    problems: list[Problem] = []
    # Given ids come first: a key that is made up must never take one away from its author.
    taken: dict[str, Enlisted | None] = {planned.job.id: None for planned in batch.jobs if planned.job.id is not None}
    numbers: dict[str, int] = {}
    enlisted = []
    for planned in batch.jobs:
        job = planned.job
        image = ""
        if job.image is not None and job.image_is_url:
            image = f"url:{job.image}"
        elif job.image is not None:
            if job.image not in digests:
                problems.append(
                    Problem(planned.where, f"jobs[{planned.index}].image: {shown(job.image, whole=True)} was not read")
                )
                continue
            image = f"sha256:{digests[job.image]}"
        content = content_hash(job, image)
        key = content[:KEY_DIGITS] if job.id is None else job.id
        if job.id is not None and (first := taken[key]) is not None and first.content != content:
            place = first.planned.where or f"jobs[{first.planned.index}]"
            message = f"jobs[{planned.index}].id: {shown(key)} is the id of another job as well, at {place}"
            problems.append(Problem(planned.where, message))
            continue
        if key in taken and (job.id is None or taken[key] is not None):
            stem = key
            number = numbers.get(stem, 1)
            while key in taken:
                number += 1
                key = f"{stem}-{number}"
            numbers[stem] = number
        taken[key] = one = Enlisted(planned, key, content, image)
        enlisted.append(one)
    if problems:
        raise InvalidBatch(problems)
    return enlisted


class Namer:
    r"""Gives each job of a batch its place and its clip a name.

    A template holds text and the fields `{id}`, `{stem}`, `{index}` (from 1; `{index:04}` pads it), `{seed}`,
    `{resolution}` and `{aspect_ratio}`. What it makes is a single name: `/` and `\` become `-`, never folders, since
    everything about a clip lies beside it.

    `{id}` of a job without one is its image's stem, or `text-` and 8 hex digits of its content (16 for one that would
    else collide with other content: in batches of 100,000 that happens by chance), then what `suffix` adds.

    Args:
        template: the template.

    Raises:
        ValueError: if it holds a field that doesn't exist.

    Attributes:
        planned: the jobs so far.
    """

    def __init__(self, template: str = DEFAULT_NAME) -> None:
        if not template.strip():
            raise ValueError("is empty")
        self.planned: list[PlannedJob] = []
        self._taken: dict[str, PlannedJob] = {}
        self._template = template
        for match in _FIELD.finditer(template):
            field, _, width = match[1].partition(":")
            if field not in NAME_FIELDS:
                raise ValueError(f"{shown(match[0])} is not a field of a name{suggestion(field, NAME_FIELDS)}")
            if ":" in match[1] and not (field == "index" and re.fullmatch("0[1-9]", width)):
                raise ValueError(f"{shown(match[0])}: only {{index:0N}} takes a width")

    def plan(
        self,
        job: Job,
        where: str,
        *,
        suffix: str = "",
        index: int | None = None,
        stem: str | None = None,
        advice: str = "give one of them another id",
    ) -> str | None:
        """Adds a job.

        Args:
            job: a job without problems.
            where: where it was written.
            suffix: what tells it from its siblings: `-1-480P`. Belongs to the made-up label alone.
            index: its place; by default the next.
            stem: what to call its image, by default the image's own stem.
            advice: what to do about a name that another job has.

        Returns:
            None, or what is wrong with its name.
        """
        at = len(self.planned) if index is None else index
        stem = _stem(job) if stem is None else stem
        label = job.id or f"{stem or 'text-' + content_hash(job, '')[:8]}{suffix}"
        planned = PlannedJob(at, job, self._name(at, job, label, stem), label, where)
        place = folded(planned.name)
        first = self._taken.get(place)
        if first is not None and not job.id and not job.image:
            content = content_hash(job, "")
            if first.job.id or first.job.image or content != content_hash(first.job, ""):
                label = f"text-{content[:16]}{suffix}"
                planned = PlannedJob(at, job, self._name(at, job, label, stem), label, where)
                place = folded(planned.name)
                first = self._taken.get(place)
        if first is not None:
            other = first.where or f"jobs[{first.index}]"
            return f"its clip would be called {shown(planned.name)}, as that of {other}; {advice}"
        self._taken[place] = planned
        self.planned.append(planned)
        return None

    def _name(self, index: int, job: Job, label: str, stem: str) -> str:
        if self._template == DEFAULT_NAME:
            return safe_name(label)

        def fill(match: re.Match[str]) -> str:
            field, _, width = match[1].partition(":")
            if field == "id":
                return label
            if field == "index":
                return f"{index + 1:{width}}"
            return (stem or "text") if field == "stem" else str(getattr(job, field))

        return safe_name(_FIELD.sub(fill, self._template))


def safe_name(text: str) -> str:
    """Makes any text a file name (without extension) that every file system takes, and that stays in its folder.

    What systems refuse becomes `-`; control characters, invisible ones and those that turn the reading direction go;
    leading dots and dashes, and trailing dots and spaces go; a device of Windows gets a `_`; what is too long is cut
    and told from its like by 8 hex digits of the whole.

    Args:
        text: any text.

    Returns:
        A name of 1 to `NAME_LIMIT_BYTES` bytes in UTF-8, normalised (NFC). Made safe again, it stays as it is.
    """
    if _HARMLESS.fullmatch(text):
        return text
    kept = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", text)
        # Cc control, Cf invisible and direction, Cs halves of pairs, Co and Cn nothing that anyone could read.
        if char.isspace() or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"}
    )
    name = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", kept)).lstrip(" .-").rstrip(" .")
    mark = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not name:
        return f"clip-{mark}"
    if match := _RESERVED.match(name):
        end = len(match[0].rstrip(" ."))
        name = f"{name[:end]}_{name[end:].lstrip(' ')}"
    if len(name.encode()) > NAME_LIMIT_BYTES:
        kept = name.encode()[: NAME_LIMIT_BYTES - 9].decode(errors="ignore").rstrip(" .-")
        name = f"{kept}-{mark}"
    return name


def folded(name: str) -> str:
    """What two names have in common if a file system may take them for one: NFC and casefold."""
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    )


def shown(value: object, *, whole: bool = False) -> str:
    """A value as a message shows it: text in quotes, on one line, without anything invisible.

    Args:
        value: any value.
        whole: keeps even a long text, as paths need it.
    """
    if not isinstance(value, str):
        words: dict[object, str] = {True: "true", False: "false"}
        if isinstance(value, bool):
            return words[value]
        if isinstance(value, list | dict):
            return "a list" if isinstance(value, list) else "a mapping"
        return "nothing" if value is None else str(value)[:60]
    text = value if whole or len(value) <= 60 else f"{value[:57]}..."
    return f'"{"".join(map(_visible, text))}"'


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def suggestion(word: str, words: Iterable[str]) -> str:
    """` (did you mean "480P"?)`, or the words there are if none comes near."""
    import difflib  # only wrong batches pay for it

    known = {known.casefold(): known for known in words}
    near = difflib.get_close_matches(word.casefold().strip(), known, n=1, cutoff=0.75)
    return f' (did you mean "{known[near[0]]}"?)' if near else f" (there are {', '.join(known.values())})"


def fault_of_text(value: object) -> str | None:
    """What is wrong with a text, if anything."""
    if type(value) is not str:
        return f"must be text, not {shown(value)}"
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"holds half of a surrogate pair, which is no character: {shown(value)}"
    return None


def fault_of_prompt(value: object) -> str | None:
    """What is wrong with a text that the model is to read, if anything."""
    if type(value) is str and value.isascii() and value.isprintable():
        return None
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if match := _CONTROL.search(text):
        return f"holds the control character U+{ord(match[0]):04X}, which nobody can see"
    if not text.isascii() and not text.isspace() and all(_is_invisible(char) for char in text):
        return "holds nothing but invisible characters"
    return None


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE or char in _BLANK or char in "\t\n\r"


def fault_of_path(path: str) -> str | None:
    """What is wrong with the path of a file that was found, if anything."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{shown(path, whole=True)}: its name is not UTF-8; rename it"
    return None


def fault_of_seed(value: object) -> str | None:
    """What is wrong with a seed, if anything."""
    if type(value) is int:
        number = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        # Python refuses to read numbers of thousands of digits, and only these matter.
        number = int(value) if len(value) <= ID_LIMIT else SEED_LIMIT
    else:
        return f"{shown(value)} is not an integer{_meant(value)}"
    return None if abs(number) < SEED_LIMIT else "is out of range: a seed has 64 bits at most"


def _meant(value: object) -> str:
    if isinstance(value, bool | list | dict) or value is None:
        return ""
    text = str(value)[:ID_LIMIT].strip()
    for read in (lambda: int(text, 0), lambda: float(text)):
        try:
            number = read()
            if number == int(number):
                return f" (did you mean {int(number)}?)"
        except (ValueError, OverflowError):
            continue
    return ""


def _fault_of_choice(what: str, choices: tuple[str, ...]) -> Callable[[object], str | None]:
    def fault_of(value: object) -> str | None:
        if value in choices:
            return None
        return f"{shown(value)} is not {what}{suggestion(str(value), choices)}"

    return fault_of


def _fault_of_id(value: object) -> str | None:
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if not text.strip() or text != text.strip():
        return f"{shown(text)} is empty" if not text.strip() else f"{shown(text)} begins or ends with a space"
    if not text.isprintable():
        return f"{shown(text)} holds a character that can't be shown"
    return f"is longer than {ID_LIMIT} characters" if len(text) > ID_LIMIT else None


def _fault_of_image(value: object) -> str | None:
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if "\0" in text:
        return f"{shown(text)} is not a path"
    if _SCHEME.match(text) and not is_url(text):
        return f"{shown(text)} is neither a path nor an http(s) URL"
    return _fault_of_url(text) if is_url(text) else None


def _fault_of_callback(value: object) -> str | None:
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if text == "":
        return None
    return _fault_of_url(text) if is_url(text) else f"{shown(value)} is not an http(s) URL"


def _fault_of_url(url: str) -> str | None:
    """What is wrong with a text that begins as an http(s) URL, if anything."""
    if not _URL.fullmatch(url):
        return f"{shown(url)} is not a URL: it holds a space"
    if not url.isprintable():
        return f"{shown(url)} is not a URL: it holds a character that can't be shown"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        if "[" in parts.netloc or "]" in parts.netloc:  # Python's releases differ in what they refuse
            IPv6Address(host.partition("%")[0])
    except ValueError:
        return f"{shown(url)} is not a URL: its host or port is none (brackets are for IPv6 addresses)"
    return None if host and port != 0 else f"{shown(url)} is not a URL: it names no host and port"


FAULTS: dict[str, Callable[[Any], str | None]] = {
    "prompt": fault_of_prompt,
    "image": _fault_of_image,
    "negative_prompt": fault_of_prompt,
    "resolution": _fault_of_choice("a resolution", RESOLUTIONS),
    "aspect_ratio": _fault_of_choice("an aspect ratio", ASPECT_RATIOS),
    "seed": fault_of_seed,
    "id": _fault_of_id,
    "callback_url": _fault_of_callback,
}
"""For each field of a job, what tells the fault of a value, or None."""


def stem_of(image: str) -> str:
    """An image's file name without its extension; of a URL, that of its path."""
    path = unquote(urlsplit(image).path) if is_url(image) else image
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name or "image"


def _stem(job: Job) -> str:
    return stem_of(job.image) if job.image else ""
