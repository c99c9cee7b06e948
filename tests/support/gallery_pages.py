"""Journals for tests of the gallery, and a parser of its page."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from wan_async.domain.attempt import Account, Attempt, Clip
from wan_async.domain.batch import Enlisted, PlannedJob
from wan_async.domain.job import Job
from wan_async.domain.lifecycle import PREVIOUS_STATES
from wan_async.gallery.page import write
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.sqlite import SqliteJournal

KEY = "k3y-that-must-stay-secret"
TOKEN = "t0ken-that-must-stay-secret"
SIGNATURE = "signatur3-that-must-stay-secret"
ACCOUNT = Account("https://api.example", KEY)
HOSTILE = (
    "</script><script>document.title='owned'</script><!--<script>]]>\"'`&amp;&lt;<img src=x onerror=alert(1)>"
    "\u202egnp.exe\u2066\u0000\u001b[31m\u2028\u2029\t\r\n\U0001f408{{7*7}}${7*7}\\u003c"
)
VIDEO = "video/mp4"
ERROR = "because of the weather"
WITHOUT_ATTEMPT = "planned"
STATE_BY_NAME = {str(state): state for state in PREVIOUS_STATES}
ALL_STATES = sorted({*STATE_BY_NAME, WITHOUT_ATTEMPT})


@dataclass(frozen=True)
class Take:
    """A job, and the state to bring its attempt to."""

    key: str
    state: str = "stored"
    files: tuple[tuple[str, str | None], ...] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    prompt: str = "the cat yawns"
    content: str = ""
    name: str = ""
    cost: int = 50_000

    def enlisted(self, index: int = 0) -> Enlisted:
        planned = PlannedJob(index, Job(prompt=self.prompt), self.name or self.key, self.key, "")
        return Enlisted(planned, self.key, self.content or f"content of {self.key}", "")

    @property
    def description(self) -> str:
        """The job's description, as a run records it."""
        job = {
            "prompt": self.prompt,
            "image": None,
            "negative_prompt": "",
            "resolution": "480P",
            "aspect_ratio": "Default",
            "seed": 42,
            "label": self.key,
        }
        return json.dumps(job | self.spec)


def sha256_of(attempt: int, number: int = 0) -> str:
    """The hash that `attempt` records of its clips."""
    return f"{attempt * 1000 + number:064x}"


async def enroll(journal: SqliteJournal, *takes: Take) -> None:
    await journal.enroll(
        [take.enlisted(index) for index, take in enumerate(takes)], (take.description for take in takes)
    )


async def attempt(journal: SqliteJournal, take: Take) -> None:
    """Record a new attempt of the job, up to the take's state."""
    if take.state == WITHOUT_ATTEMPT:
        return
    form = {
        "inputImageUrl": f"https://cdn.example/cat.png?Signature={SIGNATURE}",
        "prompt": take.prompt,
        "negativePrompt": "rain",
        "resolution": "720P",
        "aspectRatio": "9:16",
        "seed": "7",
    }
    one = take.enlisted()
    attempt = Attempt(
        job=one.key, number=1, content=one.content, form=form, image="", name=one.planned.name, reserved=60_000
    )
    await journal.intent(attempt, cap=None)
    if take.state in ("unknown", "quarantined", "absent", "abandoned"):
        await journal.unknown(attempt, "the connection was closed", 1.0)
    if take.state in ("quarantined", "abandoned"):
        await journal.quarantined(attempt, "several tasks match")
    if take.state == "absent":
        await journal.absent(attempt)
    if take.state == "abandoned":
        await journal.abandoned(attempt)
    if take.state == "rejected":
        await journal.rejected(attempt, "no")
    if take.state in ("accepted", "ended", "stored", "failed", "cancelled", "missing"):
        await journal.accepted(
            attempt, f"{500 + attempt.id}", f"{TOKEN}-{attempt.id}", TOKEN.encode(), 1.0, adopted=False
        )
    if take.state in ("ended", "stored", "failed", "cancelled", "missing"):
        url = f"https://cdn.example/clip.mp4?Expires=1&Signature={SIGNATURE}"
        await journal.ended(
            attempt, task_id=attempt.task_id, status="task_postprocess_end", pexit="0", cost=take.cost,
            outputs=[(VIDEO, 1, url)], reason=None, at=1.0,
        )  # fmt: skip
    if take.state == "stored":
        files = ((f"{one.planned.name}.mp4", VIDEO),) if take.files is None else take.files
        for number, (file, kind) in enumerate(files):
            await journal.checked(
                attempt, Clip(number, file, f'"{SIGNATURE}"', sha256_of(attempt.id, number), 1_500_000, kind)
            )
        await journal.stored(attempt, 1.0)
    if take.state in ("failed", "cancelled", "missing"):
        await journal.closed(attempt, STATE_BY_NAME[take.state], ERROR)
    if take.state == "failed":
        await journal.job_failed(one.key, "render", ERROR, sticky=False)


def record(output: Path, steps: Callable[[SqliteJournal], Awaitable[None]], home: Path | None = None) -> None:
    """Open the output folder's journal and run `steps` with it."""

    async def run() -> None:
        async with SqliteJournal.open(home or output / FOLDER, ACCOUNT, inline=True) as journal:
            await steps(journal)

    with ThreadPoolExecutor(1) as pool:  # in tests with a browser, Playwright's event loop runs in this thread
        pool.submit(lambda: asyncio.run(run())).result()


def record_batches(output: Path, *batches: list[Take], home: Path | None = None) -> None:
    """Make a journal of several batches: each is enrolled, then its takes are recorded in order."""

    async def steps(journal: SqliteJournal) -> None:
        for takes in batches:
            await enroll(journal, *takes)
            for take in takes:
                await attempt(journal, take)

    record(output, steps, home)


def record_many(output: Path, count: int) -> None:
    """Make a journal of `count` stored jobs with few statements."""
    record_batches(output, [Take(f"job-{number}", WITHOUT_ATTEMPT, prompt="word " * 40) for number in range(count)])
    with closing(database(output)) as db, db:
        db.execute(
            "INSERT INTO attempts (job, number, content, state, form, image, name, intent_at) "
            "SELECT key, 1, content, 'stored', '{}', '', name, 1 FROM jobs"
        )
        db.execute(
            "INSERT INTO clips SELECT id, 0, name || '.mp4', '', printf('%064x', id), 1, 'video/mp4' FROM attempts"
        )


def database(output: Path) -> sqlite3.Connection:
    """The journal's database, with the functions that its triggers call."""
    db = sqlite3.connect(output / FOLDER / FILE)
    for name, function in LAYOUT.functions.items():
        db.create_function(name, -1, function)
    return db


class Page(HTMLParser):
    """The elements and texts of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append((self.tags[-1][0] if self.tags else "", data))

    @property
    def scripts(self) -> list[str]:
        """The contents of the script elements: what holds for all rows, verdicts, rows, and the code."""
        inner = re.findall(r"<script[^>]*>(.*?)</script>", self.text, re.DOTALL)
        assert len(inner) == self.count("script")
        return inner

    @property
    def code(self) -> str:
        return self.scripts[3]

    @property
    def facts(self) -> dict[str, Any]:
        """What holds for all rows."""
        facts: dict[str, Any] = json.loads(self.scripts[0])
        return facts

    @property
    def verdicts(self) -> dict[str, Any]:
        verdicts: dict[str, Any] = json.loads(self.scripts[1])
        return verdicts

    @property
    def style(self) -> str:
        (inner,) = re.findall(r"<style>(.*?)</style>", self.text, re.DOTALL)
        return str(inner)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.scripts[2].split("\n") if line]

    @property
    def shots(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "texts" in line]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of jobs and earlier clips, with their shots in place of the shots' numbers."""
        lines = self.lines
        shots = [line for line in lines if "texts" in line]
        return [line | {"shot": shots[line["shot"]]} for line in lines if "texts" not in line]

    @property
    def links(self) -> list[str | None]:
        """The links for browsers without JavaScript."""
        return [tag["href"] for name, tag in self.tags if name == "a"]

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = [tag["content"] for name, tag in self.tags if tag.get("http-equiv") == "Content-Security-Policy"]
        assert content is not None
        return {name: values for name, *values in (part.split() for part in content.split(";"))}

    @property
    def visible(self) -> str:
        """Its text without code, on one line."""
        return " ".join(" ".join(data for tag, data in self.words if tag not in ("script", "style")).split())

    def count(self, wanted: str) -> int:
        return sum(tag == wanted for tag, _ in self.tags)


def page_of(output: Path, *takes: Take) -> Page:
    """Write and parse the page of a journal; with takes, of a new journal that has them."""
    if takes:
        record_batches(output, [*takes])
    return Page(write(output).read_text("utf-8"))


def hostile_page(output: Path) -> Page:
    """The page of two jobs, one without a clip, with hostile text in every field."""
    spec = dict.fromkeys(("label", "negative_prompt", "resolution", "aspect_ratio", "image"), HOSTILE)
    return page_of(
        output,
        Take(HOSTILE, prompt=HOSTILE, spec=spec, files=((HOSTILE.replace("\0", "") + ".mp4", HOSTILE),)),
        Take("b" + HOSTILE, "failed", prompt=HOSTILE, spec=spec),
    )
