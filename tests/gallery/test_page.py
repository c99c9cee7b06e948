from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from servers import command_line

from wan_async.domain.attempt import Account, Attempt, Clip
from wan_async.domain.batch import Enlisted, PlannedJob
from wan_async.domain.job import Job
from wan_async.domain.lifecycle import State
from wan_async.errors import Unusable
from wan_async.gallery import page as page_module
from wan_async.gallery.page import _GROUPS, _STATES, NAME, _page, _parts, write
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.sqlite import SqliteJournal
from wan_async.journal.tables import VERSION

KEY = "k3y-that-nobody-may-see"
TOKEN = "t0ken-that-nobody-may-see"
SIGNATURE = "signatur3-that-nobody-may-see"
ACCOUNT = Account("https://api.example", KEY)
HOSTILE = (
    "</script><script>document.title='owned'</script><!--<script>]]>\"'`&amp;&lt;<img src=x onerror=alert(1)>"
    "\u202egnp.exe\u2066\u0000\u001b[31m\u2028\u2029\t\r\n\U0001f408{{7*7}}${7*7}\\u003c"
)
VIDEO = "video/mp4"
WITHOUT_ATTEMPT = "planned"


@dataclass(frozen=True)
class Take:
    """A job, and how far its attempt came."""

    key: str
    state: str = "stored"
    files: tuple[tuple[str, str | None], ...] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    prompt: str = "the cat yawns"
    content: str = ""
    name: str = ""
    cost: int = 50_000

    @property
    def enlisted(self) -> Enlisted:
        planned = PlannedJob(0, Job(prompt=self.prompt), self.name or self.key, self.key, "")
        return Enlisted(planned, self.key, self.content or f"content of {self.key}", "")

    @property
    def told(self) -> str:
        """What people may want to know of it, as a run writes it."""
        known = {
            "prompt": self.prompt,
            "image": None,
            "negative_prompt": "",
            "resolution": "480P",
            "aspect_ratio": "Default",
            "seed": 42,
            "label": self.key,
        }
        return json.dumps(known | self.spec)


async def enroll(journal: SqliteJournal, *takes: Take) -> None:
    jobs = [take.enlisted for take in takes]
    for index, job in enumerate(jobs):
        object.__setattr__(job.planned, "index", index)
    await journal.enroll(jobs, (take.told for take in takes))


async def bring(journal: SqliteJournal, take: Take) -> None:
    """Brings a new attempt at the job as far as it came."""
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
    one = take.enlisted
    attempt = Attempt(
        job=one.key, number=1, content=one.content, form=form, image="", name=one.planned.name, reserved=60_000
    )
    await journal.intent(attempt, cap=None)
    if take.state in ("unknown", "quarantined", "absent", "abandoned"):
        await journal.unknown(attempt, "the connection broke", 1.0)
    if take.state in ("quarantined", "abandoned"):
        await journal.quarantined(attempt, "nobody can tell")
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
            await journal.checked(attempt, Clip(number, file, f'"{SIGNATURE}"', "5ha", 1_500_000, kind))
        await journal.stored(attempt, 1.0)
    closed = {"failed": State.FAILED, "cancelled": State.CANCELLED, "missing": State.MISSING}
    if take.state in closed:
        await journal.closed(attempt, closed[take.state], "because of the weather")
    if take.state == "failed":
        await journal.job_failed(one.key, "render", "because of the weather", sticky=False)


def written(output: Path, story: Callable[[SqliteJournal], Awaitable[None]], home: Path | None = None) -> None:
    """A journal in which the story happened."""

    async def tell() -> None:
        async with SqliteJournal.open(home or output / FOLDER, ACCOUNT, inline=True) as journal:
            await story(journal)

    asyncio.run(tell())


def fill(output: Path, *takes: Take) -> None:
    """A journal of a batch of these jobs."""

    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, *takes)
        for take in takes:
            await bring(journal, take)

    written(output, story)


class Page(HTMLParser):
    """A page as a browser understands it, as far as that can be had without one."""

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
        """What lies in script elements: the data, then the code."""
        inner = re.findall(r"<script[^>]*>(.*?)</script>", self.text, re.DOTALL)
        assert len(inner) == self.count("script")
        return inner

    @property
    def style(self) -> str:
        (inner,) = re.findall(r"<style>(.*?)</style>", self.text, re.DOTALL)
        return str(inner)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.scripts[0].split("\n") if line]

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = [tag["content"] for name, tag in self.tags if tag.get("http-equiv") == "Content-Security-Policy"]
        assert content is not None
        return {name: values for name, *values in (part.split() for part in content.split(";"))}

    @property
    def visible(self) -> str:
        """Its words, without code."""
        return " ".join(data for tag, data in self.words if tag not in ("script", "style"))

    @property
    def chips(self) -> dict[str, str]:
        """The buttons by what they choose."""
        return dict(re.findall(r'<button type="button" data-group="(\w*)"[^>]*>\w+ <b>([\d,]+)</b>', self.text))

    def count(self, wanted: str) -> int:
        return sum(tag == wanted for tag, _ in self.tags)


def made(output: Path) -> Page:
    return Page(write(output).read_text("utf-8"))


def page_of(output: Path, *takes: Take) -> Page:
    fill(output, *takes)
    return made(output)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_stored_clip_comes_with_all_that_people_want_to_know_of_it(output: Path) -> None:
    spec = {
        "prompt": "the cat yawns\nand sleeps", "image": "pictures/cat.png", "negative_prompt": "blurry",
        "resolution": "720P", "aspect_ratio": "16:9", "seed": -(2**63) + 1, "label": "cat",
    }  # fmt: skip
    page = page_of(output, Take("a1b2", spec=spec, name="cat", cost=1_234_567_891))
    assert page.rows == [
        {
            "id": "cat",
            "key": "a1b2",
            "group": "stored",
            "state": "stored",
            "prompt": "the cat yawns\nand sleeps",
            "negative": "blurry",
            "image": "cat.png",
            "resolution": "720P",
            "aspect": "16:9",
            "seed": "-9223372036854775807",
            "task": "501",
            "cost": "$1,234.567891",
            "clips": [{"src": "./cat.mp4", "file": "cat.mp4", "bytes": 1_500_000, "type": "video/mp4"}],
        }
    ]
    assert "1 clip ·" in " ".join(page.visible.split())
    assert "$1,234.567891 spent" in " ".join(page.visible.split())
    assert "reserved" not in page.visible


@pytest.mark.parametrize(
    ("state", "group", "word", "reason"),
    [
        ("planned", "unfinished", "waiting", "Not sent yet."),
        ("rejected", "unfinished", "waiting", "no"),
        ("absent", "unfinished", "waiting", "the connection broke"),
        ("abandoned", "unfinished", "waiting", "nobody can tell"),
        ("intent", "unfinished", "being sent", "The request was about to leave."),
        ("accepted", "unfinished", "rendering", "The service is working on it."),
        ("ended", "unfinished", "to download", "Rendered; its clip is not on disk yet."),
        ("failed", "failed", "failed", "because of the weather"),
        ("cancelled", "cancelled", "cancelled", "because of the weather"),
        ("missing", "missing", "missing", "because of the weather"),
        ("unknown", "unknown", "unknown", "the connection broke"),
        ("quarantined", "unknown", "quarantined", "nobody can tell"),
    ],
)
def test_a_job_without_a_clip_says_why(output: Path, state: str, group: str, word: str, reason: str) -> None:
    page = page_of(output, Take("a", state))
    (row,) = page.rows
    assert (row["group"], row["state"], row["reason"]) == (group, word, reason)
    assert "clips" not in row
    assert page.chips == {"": "1", group: "1"}
    assert "0 clips" in " ".join(page.visible.split())


def test_every_state_has_a_word(output: Path) -> None:
    known = set(_STATES)
    states = [*State]
    page = page_of(output, *(Take(state, state) for state in states))
    assert len(page.rows) == len(states)
    assert {row["group"] for row in page.rows} <= set(_GROUPS)
    assert {group for group, _, _ in _STATES.values()} == set(_GROUPS)
    assert known >= {WITHOUT_ATTEMPT, "stored", "quarantined"}


def test_jobs_stand_in_batch_order_and_are_counted_by_group(output: Path) -> None:
    takes = [Take("b"), Take("c", "failed", cost=0), Take("a"), Take("d", "accepted"), Take("e", "unknown")]
    page = page_of(output, *takes)
    assert [row["id"] for row in page.rows] == ["b", "c", "a", "d", "e"]
    assert page.chips == {"": "5", "stored": "2", "unfinished": "1", "failed": "1", "unknown": "1"}
    assert "2 clips · $0.10 spent · $0.12 reserved" in " ".join(page.visible.split())


def test_an_empty_batch_is_a_page_too(output: Path) -> None:
    page = page_of(output)
    assert page.rows == []
    assert page.chips == {"": "0"}
    assert "No jobs yet." in page.scripts[1]


def test_a_job_has_all_its_outputs_in_their_order_and_none_has_those_of_another(output: Path) -> None:
    takes = [
        Take("a", files=(("a.mp4", VIDEO), ("a-2.mp4", VIDEO), ("a-3.PNG", "IMAGE/PNG"), ("a-4.bin", None))),
        Take("b", files=(("b.mp4", VIDEO),)),
    ]
    first, second = page_of(output, *takes).rows
    assert [(clip["file"], clip["type"]) for clip in first["clips"]] == [
        ("a.mp4", "video/mp4"), ("a-2.mp4", "video/mp4"), ("a-3.PNG", "image/png"), ("a-4.bin", "")
    ]  # fmt: skip
    assert [clip["file"] for clip in second["clips"]] == ["b.mp4"]


@pytest.mark.parametrize(
    "file",
    [
        "two words.mp4", "100%.mp4", "50%25.mp4", "a#t=1.mp4", "a?b=c&d.mp4", "a;b.mp4", "Übung 猫 🐈.mp4",
        "a'b\"c.mp4",
        "javascript:alert(1).mp4", "data:text,x.mp4", "//evil.example/x.mp4", "C:\\x.mp4", "<img>.mp4",
        "x\u202e4pm.mp4",
        "\u0001.mp4", "sub folder/a.mp4", "+.mp4",
    ],
)  # fmt: skip
def test_a_clips_address_is_its_file_beside_the_page_whatever_it_is_called(output: Path, file: str) -> None:
    (row,) = page_of(output, Take("a", files=((file, VIDEO),))).rows
    (clip,) = row["clips"]
    assert re.fullmatch(r"\./[A-Za-z0-9._~/%-]+", clip["src"])
    assert unquote(clip["src"]) == f"./{file}"
    assert clip["file"] == file


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (None, None),
        ("", None),
        ("cat.png", "cat.png"),
        ("/home/someone/secret plans/cat.png", "cat.png"),
        ("C:\\Users\\someone\\cat.png", "cat.png"),
        (f"https://cdn.example/a/cat.png?Signature={SIGNATURE}", "cat.png"),
        (f"https://cdn.example/cat.png#{SIGNATURE}", "cat.png"),
        (f"https://cdn.example/cat.png?Key=a/b/{SIGNATURE}", "cat.png"),
        (f"https://someone:{SIGNATURE}@cdn.example", None),
        (f"https://someone:{SIGNATURE}@cdn.example?a=/b", None),
        ("https://cdn.example/", None),
        ("odd?name#.png", "odd?name#.png"),
    ],
)
def test_an_image_is_named_without_what_is_nobodys_business(output: Path, image: str | None, shown: str | None) -> None:
    page = page_of(output, Take("a", spec={"image": image}))
    assert page.rows[0].get("image") == shown
    assert SIGNATURE not in page.text
    assert "someone" not in page.text


def test_no_token_key_or_signature_is_in_the_page(output: Path) -> None:
    states = [*State]
    page = page_of(output, *(Take(f"job {state}", state) for state in states))
    with closing(sqlite3.connect(output / FOLDER / FILE)) as db:
        said = "\n".join(db.iterdump())
    for secret in (TOKEN, SIGNATURE):
        assert secret in said
        assert secret not in page.text
    assert KEY not in page.text
    assert "cdn.example" not in page.text
    assert str(output.parent) not in page.text


def hostile(output: Path) -> Page:
    spec = dict.fromkeys(("label", "negative_prompt", "resolution", "aspect_ratio", "image"), HOSTILE)
    return page_of(
        output,
        Take(HOSTILE, prompt=HOSTILE, spec=spec, files=((HOSTILE.replace("\0", "") + ".mp4", HOSTILE),)),
        Take("b" + HOSTILE, "failed", prompt=HOSTILE, spec=spec),
    )


def test_hostile_text_is_data_and_nothing_else(output: Path) -> None:
    tame = page_of(output.parent / "tame", Take("a"), Take("b", "failed"))
    page = hostile(output)
    assert page.tags == [
        (tag, attrs) if attrs.get("datetime") is None else page.tags[at] for at, (tag, attrs) in enumerate(tame.tags)
    ]
    assert "owned" not in page.visible
    assert page.scripts[1] == tame.scripts[1]
    assert "<" not in page.scripts[0]
    assert page.scripts[0].isascii()
    first, second = page.rows
    assert first["id"] == first["prompt"] == first["key"] == first["negative"] == HOSTILE
    assert second["prompt"] == HOSTILE


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_hostile_folder_is_a_title_and_nothing_else(tmp_path: Path) -> None:
    name = "</title><script>alert(1)<\u2215script>&amp;\"'\u202e"
    (tmp_path / name.replace("/", "\u2215")).mkdir()
    page = page_of(tmp_path / name.replace("/", "\u2215"), Take("a"))
    assert page.count("script") == 2
    assert "&lt;script&gt;alert(1)" in page.text
    assert "&amp;amp;&quot;&#x27;" in page.text


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_folder_whose_name_is_not_text_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk wants text")  # as macOS's does
    assert "<h1>caf?</h1>" in page_of(folder, Take("a")).text


def test_the_page_names_its_folder_wherever_it_is_called_from(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(output, Take("a"))
    (output / "sub").mkdir()
    for here, way in ((output, "."), (output / "sub", "..")):
        monkeypatch.chdir(here)
        assert "<h1>out</h1>" in write(Path(way)).read_text("utf-8")


def test_the_code_never_takes_text_for_markup_or_code(output: Path) -> None:
    _, code = page_of(output, Take("a")).scripts
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in code


def test_only_the_pages_own_script_and_style_run_and_nothing_leaves_it(output: Path) -> None:
    page = page_of(output, Take("a"))

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert page.policy == {
        "default-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "media-src": ["'self'", "file:"],
        "img-src": ["'self'", "file:"],
        "style-src": [hashed(page.style)],
        "script-src": [hashed(page.scripts[1])],
    }
    data, code = (tag for name, tag in page.tags if name == "script")
    assert data == {"type": "application/json", "id": "data"}
    assert code == {}


def test_the_page_needs_nothing_but_itself_and_its_clips(output: Path) -> None:
    page = page_of(output, Take("a"))
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert "//" not in re.sub(r"\s// .*", "", page.scripts[1])
    assert "url(" not in page.style
    assert "@import" not in page.style
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "video", "img", "source")
        assert not {"src", "href", "style"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)


def test_no_video_is_asked_for_before_it_is_near_the_window(output: Path) -> None:
    _, code = page_of(output, Take("a")).scripts
    assert 'preload: "none"' in code
    assert code.count("video.src = video.dataset.src") == 1
    assert code.index("new IntersectionObserver") < code.index("video.src = video.dataset.src")
    assert 'loading: "lazy"' in code


def database(output: Path) -> sqlite3.Connection:
    db = sqlite3.connect(output / FOLDER / FILE)
    for name, function in LAYOUT.functions.items():
        db.create_function(name, -1, function)
    return db


def thousands(output: Path, count: int) -> None:
    """A journal of many stored jobs, made at once."""
    fill(output, *(Take(f"job-{number}", WITHOUT_ATTEMPT, prompt="word " * 40) for number in range(count)))
    with closing(database(output)) as db, db:
        db.execute(
            "INSERT INTO attempts (job, number, content, state, form, image, name, intent_at) "
            "SELECT key, 1, content, 'stored', '{}', '', name, 1 FROM jobs"
        )
        db.execute("INSERT INTO clips SELECT id, 0, name || '.mp4', '', '5ha', 1, 'video/mp4' FROM attempts")


def test_thousands_of_clips_are_rows_of_data_and_not_elements(output: Path) -> None:
    thousands(output, 5000)
    page = made(output)
    assert len(page.rows) == 5000
    assert {len(row["clips"]) for row in page.rows} == {1}
    assert len(page.tags) < 40
    assert page.chips == {"": "5,000", "stored": "5,000"}
    assert len(page.text) < 5000 * 500


def test_people_without_a_mouse_or_good_eyes_can_use_it(output: Path) -> None:
    page = page_of(output, Take("a"))
    ((_, search),) = [tag for tag in page.tags if tag[0] == "input"]
    assert search["aria-label"]
    assert [tag["aria-pressed"] for name, tag in page.tags if name == "button"] == ["true", "false"]
    assert ("html", {"lang": "en"}) in page.tags
    assert page.count("main") == page.count("h1") == page.count("noscript") == 1
    assert any(tag.get("role") == "status" for _, tag in page.tags)
    assert ":focus-visible" in page.style
    assert "outline: none" not in page.style
    assert "prefers-reduced-motion" in page.scripts[1]
    assert 'setAttribute("aria-label"' in page.scripts[1]


def _luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _palettes(style: str) -> Iterator[dict[str, str]]:
    for block in re.findall(r":root \{([^}]*)\}", style):
        yield dict(re.findall(r"--(\w+): #([0-9a-f]+);", block))


def test_text_stands_out_by_day_and_by_night(output: Path) -> None:
    day, night = _palettes(page_of(output, Take("a")).style)
    assert set(day) == set(night)
    for palette in (day, night):
        for ink, ground in [
            *((ink, "card") for ink in ("ink", "soft", "go", "bad", "wait", "odd")),
            *((ink, "page") for ink in ("ink", "soft")),
            *((ink, "well") for ink in ("soft", "go")),
        ]:
            darker, lighter = sorted((_luminance(palette[ink]), _luminance(palette[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


def test_a_clip_of_a_job_that_the_batch_no_longer_names_is_still_there(output: Path) -> None:
    old = Take("old", prompt="the dog barks", spec={"image": "dog.png", "label": "dog"})

    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("new"), old)
        await bring(journal, old)
        await bring(journal, Take("gone", "failed"))
        await bring(journal, Take("new"))
        await enroll(journal, Take("new"))

    written(output, story)
    page = made(output)
    new, earlier = page.rows
    assert new["id"] == "new"
    assert (earlier["id"], earlier["group"], earlier["state"]) == ("dog", "earlier", "earlier")
    assert (earlier["prompt"], earlier["image"], earlier["seed"]) == ("the dog barks", "dog.png", "42")
    assert [clip["file"] for clip in earlier["clips"]] == ["old.mp4"]
    assert "reason" in earlier
    assert page.chips == {"": "2", "stored": "1", "earlier": "1"}
    assert "2 clips · $0.15 spent" in " ".join(page.visible.split())


def test_a_clip_of_what_a_job_once_was_says_what_was_asked_for_then(output: Path) -> None:
    then = Take("cat", content="then", prompt="the cat yawns", files=(("cat-2.mp4", VIDEO), ("cat-2-2.mp4", VIDEO)))
    now = Take("cat", content="now", prompt="the cat leaps")

    async def story(journal: SqliteJournal) -> None:
        for take in (then, now):
            await enroll(journal, take)
            await bring(journal, take)

    written(output, story)
    page = made(output)
    new, earlier = page.rows
    assert (new["prompt"], new["group"], new["task"]) == ("the cat leaps", "stored", "502")
    assert [clip["file"] for clip in new["clips"]] == ["cat.mp4"]
    assert (earlier["prompt"], earlier["group"], earlier["task"]) == ("the cat yawns", "earlier", "501")
    assert (earlier["negative"], earlier["resolution"], earlier["aspect"]) == ("rain", "720P", "9:16")
    assert earlier["seed"] == "7"
    assert "image" not in earlier
    assert [clip["file"] for clip in earlier["clips"]] == ["cat-2.mp4", "cat-2-2.mp4"]
    assert SIGNATURE not in page.text


def test_a_clip_is_shown_once_it_is_stored_and_a_cost_once_it_is_known(output: Path) -> None:
    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("old"), Take("a"))
        for take in (Take("old"), Take("a")):
            await bring(journal, take)
        await enroll(journal, Take("waits", WITHOUT_ATTEMPT), Take("a"), Take("b"))
        await bring(journal, Take("b", "accepted"))

    written(output, story)
    with closing(database(output)) as db, db:
        db.execute("UPDATE attempts SET state = 'ended' WHERE job = 'a'")  # as if its file were gone
    rows = {row["id"]: row for row in made(output).rows}
    assert {key: "clips" in row for key, row in rows.items()} == {"waits": False, "a": False, "b": False, "old": True}
    assert {key: row.get("cost") for key, row in rows.items()} == {
        "waits": None, "a": "$0.05", "b": None, "old": "$0.05"
    }  # fmt: skip


@pytest.mark.parametrize("again", ["stored", "accepted"])
def test_a_job_that_is_rendered_again_keeps_its_earlier_takes(output: Path, again: str) -> None:
    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("a"))
        for take in (Take("a", files=(("a-2.mp4", VIDEO),)), Take("a", files=(("a-3.mp4", VIDEO),)), Take("a", again)):
            await bring(journal, take)

    written(output, story)
    page = made(output)
    assert [row["task"] for row in page.rows] == ["503", "501", "502"]
    assert [[clip["file"] for clip in row["clips"]] for row in page.rows[1:]] == [["a-2.mp4"], ["a-3.mp4"]]
    assert page.chips[""] == "3"
    assert page.chips["earlier"] == "2"


def test_a_job_that_took_over_anothers_clip_shows_it_once(output: Path) -> None:
    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("old", content="same"))
        await bring(journal, Take("old", content="same"))
        await enroll(journal, Take("new", content="same"))

    written(output, story)
    (row,) = made(output).rows
    assert (row["id"], row["group"]) == ("new", "stored")


def test_a_running_batch_can_be_looked_at_and_is_not_disturbed(output: Path) -> None:
    async def story(journal: SqliteJournal) -> None:
        takes = [Take("a"), Take("b", "accepted"), Take("c", WITHOUT_ATTEMPT)]
        await enroll(journal, *takes)
        for take in takes:
            await bring(journal, take)
        assert [row["state"] for row in made(output).rows] == ["stored", "rendering", "waiting"]
        await bring(journal, Take("c"))
        assert [row["state"] for row in made(output).rows] == ["stored", "rendering", "stored"]

    written(output, story)


def test_totals_and_rows_are_of_the_same_moment_whatever_the_run_writes_meanwhile(output: Path) -> None:
    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("a"), Take("b"))
        await bring(journal, Take("a"))
        with ExitStack() as stack:
            parts = _page(_parts(stack, output, None), "out")
            head = next(parts)
            await bring(journal, Take("b"))
            page = Page(head + "".join(parts))
        assert page.chips == {"": "2", "stored": "1", "unfinished": "1"}
        assert [row["group"] for row in page.rows] == ["stored", "unfinished"]

    written(output, story)


def test_single_clips_stand_behind_those_of_the_run_and_on_their_own(output: Path) -> None:
    async def story(journal: SqliteJournal) -> None:
        await enroll(journal, Take("solo"))
        await bring(journal, Take("solo"))

    single = output / FOLDER / "generate" / "solo"
    written(output, story, home=single)
    (output / FOLDER / "generate" / "begun").mkdir()
    (output / FOLDER / "generate" / "begun" / FILE).touch()
    assert [row["id"] for row in Page(write(output).read_text("utf-8")).rows] == ["solo"]
    fill(output, Take("a"), Take("b"))
    page = Page(write(output).read_text("utf-8"))
    assert [row["id"] for row in page.rows] == ["a", "b", "solo"]
    assert page.chips == {"": "3", "stored": "3"}


def test_a_journal_may_lie_elsewhere(tmp_path: Path, output: Path) -> None:
    fill(tmp_path / "elsewhere", Take("a"))
    page = write(output, home=tmp_path / "elsewhere" / FOLDER)
    assert page == output / NAME
    assert Page(page.read_text("utf-8")).rows[0]["id"] == "a"


def test_without_a_journal_it_says_what_folder_is_wanted(output: Path) -> None:
    for folder in (output, output / "nowhere"):
        with pytest.raises(Unusable, match=r"no journal at .*: is this an output folder of a run\?"):
            write(folder)
    assert list(output.iterdir()) == []


def test_a_journal_that_was_never_finished_is_none(output: Path) -> None:
    (output / FOLDER).mkdir()
    (output / FOLDER / FILE).touch()
    with pytest.raises(Unusable, match=r"no journal at .*: is this an output folder of a run\?"):
        write(output)
    assert [path.name for path in output.iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (f"PRAGMA user_version = {VERSION + 1}", "newer version"),
        ("DROP TABLE clips", "is damaged"),
        ("UPDATE jobs SET spec = '{'", "is damaged: job a can't be read"),
        ("UPDATE jobs SET name = CAST(x'ff' AS TEXT)", f"the journal .*{FILE} is damaged .*Could not decode"),
    ],
)
def test_a_journal_that_cannot_be_read_leaves_the_page_that_was_there(output: Path, harm: str, said: str) -> None:
    fill(output, Take("a"))
    page = write(output)
    before = page.read_bytes()
    with closing(database(output)) as db, db:
        db.execute(harm)
    with pytest.raises(Unusable, match=said):
        write(output)
    assert page.read_bytes() == before
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_a_file_that_is_no_journal_is_called_damaged(output: Path) -> None:
    (output / FOLDER).mkdir()
    (output / FOLDER / FILE).write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(Unusable, match="damaged"):
        write(output)


def test_the_page_is_replaced_as_a_whole_and_after_it_is_durable(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(output, Take("a"))
    page = output / NAME
    page.write_bytes(b"old")
    elsewhere = output / "elsewhere"
    os.link(page, elsewhere)
    seen: list[str] = []

    def fsync(number: int) -> None:
        assert page.read_bytes() == b"old"
        seen.extend(path.name for path in output.glob("*.tmp"))
        os.fsync(number)

    monkeypatch.setattr(page_module, "fsync", fsync)
    assert write(output) == page
    assert [name for name in seen if re.fullmatch(r"gallery\.html\.[0-9a-f]{8}\.tmp", name)] == seen != []
    assert page.read_bytes().endswith(b"</html>\n")
    assert elsewhere.read_bytes() == b"old"
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, "elsewhere", NAME]


def test_a_full_disk_leaves_the_page_that_was_there(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(output, Take("a"))
    page = write(output)
    before = page.read_bytes()

    def full(number: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(page_module, "fsync", full)
    with pytest.raises(Unusable, match=r"gallery\.html can't be used: No space left"):
        write(output)
    assert page.read_bytes() == before
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_a_folder_in_the_pages_place_is_left_alone(output: Path) -> None:
    fill(output, Take("a"))
    (output / NAME).mkdir()
    with pytest.raises(Unusable, match=r"gallery\.html can't be used"):
        write(output)
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_the_command_prints_where_the_page_is_and_exits_with_6_where_there_is_none(
    tmp_path: Path, output: Path
) -> None:
    fill(output, Take("a"))
    done = command_line("gallery", str(output), cwd=tmp_path)
    assert done.returncode == 0
    assert Path(done.stdout.strip()) == output / NAME
    done = command_line("gallery", "nowhere", cwd=tmp_path)
    assert done.returncode == 6
    assert "no journal" in done.stderr
    assert "Traceback" not in done.stderr


BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), "")
in_a_browser = pytest.mark.skipif(not BROWSER, reason="no browser to look with")


def browsed(page: Path, profile: Path) -> Page:
    """The page's elements after its script has run in a browser."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=2000 --window-size=1000,900 --dump-dom"
    )
    done = subprocess.run(
        [BROWSER, *flags.split(), f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    return Page(done.stdout)


def told(page: Path, before: str, after: str) -> Path:
    """The page without its policy, and with scripts around its own."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    start, end = text.index('<script>\n"use strict"'), text.index("</body>")
    changed = page.with_name("changed.html")
    parts = (text[:start], f"<script>{before}</script>", text[start:end], f"<script>{after}</script>", text[end:])
    changed.write_text("".join(parts), "utf-8")
    return changed


@in_a_browser
def test_in_a_browser_hostile_text_is_shown_as_text(tmp_path: Path, output: Path) -> None:
    hostile(output)
    seen = browsed(output / NAME, tmp_path / "profile")
    assert "<title>out · clips</title>" in seen.text
    assert seen.count("li") == 2
    assert seen.count("script") == 1  # the data is taken out once it is read
    assert seen.count("img") == 0
    assert "document.title='owned'" in seen.visible
    assert "because of the weather" in seen.visible
    assert [tag["dir"] for _, tag in seen.tags if tag.get("class") == "prompt"] == ["auto", "auto"]


@in_a_browser
def test_in_a_browser_thousands_of_clips_are_a_few_cards_and_fewer_videos(tmp_path: Path, output: Path) -> None:
    thousands(output, 2000)
    seen = browsed(write(output), tmp_path / "profile")
    assert 48 <= seen.count("li") < 200
    videos = [tag for name, tag in seen.tags if name == "video"]
    assert all(tag["data-src"] for tag in videos)
    assert sum("src" in tag for tag in videos) < len(videos) / 2


@in_a_browser
def test_in_a_browser_the_end_coming_into_sight_is_seen_though_it_was_out_of_sight_a_moment_before(
    tmp_path: Path, output: Path
) -> None:
    thousands(output, 2000)
    fake = """
        const fakes = [];
        window.IntersectionObserver = class {
          constructor(tell) { this.tell = tell; fakes.push(this); }
          observe() {} unobserve() {} disconnect() {}
        };"""
    for sights, cards in (([False, True], 96), ([True, False], 48)):
        entries = json.dumps([{"isIntersecting": sight} for sight in sights])
        page = told(write(output), fake, f"fakes[1].tell({entries});")
        assert browsed(page, tmp_path / "profile").count("li") == cards


@in_a_browser
def test_in_a_browser_words_and_states_choose_cards(tmp_path: Path, output: Path) -> None:
    takes = [
        Take("coffee", prompt="Steam curls from an ESPRESSO", spec={"seed": 7}),
        Take("cat", prompt="the cat sips espresso", spec={"seed": ""}),
        Take("dog", "failed", prompt="the dog spills espresso"),
    ]
    fill(output, *takes)
    page = write(output)
    wanted = [
        ("search.value = ' espresso  STEAM'; choose()", ["coffee"], "1 of 3"),
        ("search.value = 'seed 7'; choose()", ["coffee"], "1 of 3"),
        ("search.value = 'weather'; choose()", ["dog"], "1 of 3"),
        ("search.value = 'cat.mp4'; choose()", ["cat"], "1 of 3"),
        ("search.value = 'undefined'; choose()", [], "0 of 3"),
        ("search.value = 'the'; choose(); chips[1].click()", ["cat"], "1 of 3"),
        ("search.value = ''; chips[2].click()", ["dog"], "1 of 3"),
        ("chips[0].click()", ["coffee", "cat", "dog"], ""),
    ]
    tell = """;told.push([
        [...document.querySelectorAll("h2 span:first-child")].map((span) => span.textContent),
        find("shown").textContent,
        document.querySelectorAll(".empty").length,
        [...chips].map((chip) => chip.ariaPressed),
    ]);"""
    script = (
        "const told = [];" + "".join(act + tell for act, _, _ in wanted) + "document.body.id = JSON.stringify(told);"
    )
    seen = browsed(told(page, "", script), tmp_path / "profile")
    (result,) = [json.loads(tag["id"] or "") for name, tag in seen.tags if name == "body"]
    for (act, found, said), (ids, shown, empty, pressed) in zip(wanted, result, strict=True):
        assert (ids, shown, empty) == (found, said, int(not found)), act
        assert pressed.count("true") == 1
