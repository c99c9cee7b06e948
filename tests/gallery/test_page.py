from __future__ import annotations

import base64
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from gallery_pages import (
    HOSTILE,
    WITHOUT_ATTEMPT,
    Page,
    Take,
    attempt,
    database,
    enroll,
    hostile_page,
    page_of,
    record,
    record_batches,
    record_many,
    sha256_of,
)
from pictures import png
from servers import in_process

from wan_async.domain.lifecycle import JOB_STATES, PROBLEMS
from wan_async.errors import Unusable
from wan_async.gallery import page as page_module
from wan_async.gallery.page import NAME, html, read_journals, write
from wan_async.gallery.source_images import Sources
from wan_async.gallery.texts import TEXTS, text
from wan_async.gallery.verdicts import Verdict, Verdicts
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.sqlite import SqliteJournal
from wan_async.journal.tables import VERSION

NO_JOURNAL = r"no journal at .*: is this an output folder of a run\?"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_hostile_text_is_only_in_the_data(output: Path) -> None:
    plain = page_of(output.parent / "plain", Take("a"), Take("b", "failed"))
    page = hostile_page(output)
    assert page.tags == [
        (tag, attrs) if not {"datetime", "href"} & set(attrs) else page.tags[at]
        for at, (tag, attrs) in enumerate(plain.tags)
    ]
    assert page.code == plain.code
    for data in page.scripts[:3]:
        assert "<" not in data
        assert data.isascii()
    assert page.rows[0]["id"] == HOSTILE
    assert "key" not in page.rows[0]  # it is the same
    for row in page.rows:
        assert row["shot"]["texts"] == {"prompt": HOSTILE, "negative_prompt": HOSTILE}
    (link,) = page.links
    assert link is not None
    assert re.fullmatch(r"\./[A-Za-z0-9._~/%-]+", link)


@pytest.mark.skipif(os.name == "nt", reason="such names can't exist there")
def test_a_hostile_folder_name_is_escaped_in_the_title(tmp_path: Path) -> None:
    folder = tmp_path / "<\u2215title><script>alert(1)<\u2215script>&amp;\"'\u202e"
    folder.mkdir()
    page = page_of(folder, Take("a"))
    assert page.count("script") == 4
    assert "&lt;script&gt;alert(1)" in page.text
    assert "&amp;amp;&quot;&#x27;" in page.text


@pytest.mark.skipif(os.name == "nt", reason="such names can't exist there")
def test_a_folder_name_that_is_not_unicode_is_shown_with_replacements(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only Unicode names")  # as macOS's does
    assert "caf?</h1>" in page_of(folder, Take("a")).text


def test_the_title_is_the_folders_name_for_relative_paths_too(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_batches(output, [Take("a")])
    (output / "sub").mkdir()
    for current, path in ((output, "."), (output / "sub", "..")):
        monkeypatch.chdir(current)
        assert ">out</h1>" in write(Path(path)).read_text("utf-8")


def test_the_policy_allows_the_pages_own_script_and_style_and_no_network(output: Path) -> None:
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
        "script-src": [hashed(page.code)],
    }
    *data, code = (tag for name, tag in page.tags if name == "script")
    assert data == [{"type": "application/json", "id": name} for name in ("page", "verdicts", "rows")]
    assert code == {}


def test_the_page_refers_to_no_resource_but_its_clips(output: Path) -> None:
    page = page_of(output, Take("a"))
    for link in ("http:", "https:", "url(", "@import"):
        assert link not in page.text
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "video", "img", "source")
        assert not {"src", "style"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)


def test_the_script_never_parses_text_as_markup_or_code(output: Path) -> None:
    code = page_of(output, Take("a")).code
    for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert call not in code


def test_thousands_of_clips_are_rows_of_data_and_not_elements(output: Path) -> None:
    record_many(output, 5000)
    page = page_of(output)
    assert len(page.rows) == 5000
    assert {len(row["clips"]) for row in page.rows} == {1}
    assert len(page.shots) == 1
    assert "<b>5,000</b> clips" in page.text
    assert len(page.links) == 5000
    assert len(page.text) < 5000 * 400


def test_every_text_of_the_page_is_in_one_table(output: Path) -> None:
    code = page_of(output, Take("a")).code
    table = next(line for line in code.splitlines() if line.startswith("const TEXTS = "))
    assert json.loads(table.removeprefix("const TEXTS = ").removesuffix(";")) == TEXTS
    written = code.replace(table, "") + inspect.getsource(page_module)
    said = set(re.findall(r'say\("(\w+)"', written)) | set(re.findall(r'"((?:key|help|form|sort)[A-Z]\w*)"', written))
    assert said <= TEXTS.keys()
    assert {name for name in TEXTS.keys() - said if not re.search(rf"\b{name}\b", written)} == set()


def test_of_two_forms_of_a_text_a_number_chooses_and_values_are_html() -> None:
    assert text("totalClips", 1, n="<b>1</b>") == "<b>1</b> clip"
    assert text("totalClips", 0, n="0") == "0 clips"


def test_every_state_has_words_on_the_page(output: Path) -> None:
    states = page_of(output, Take("a")).facts["states"]
    assert set(states) == {"earlier", *JOB_STATES} == set(TEXTS["states"])
    assert {state for state, about in states.items() if about["problem"]} == {*PROBLEMS, "unknown"}


def test_verdicts_are_embedded_as_data(output: Path) -> None:
    record_batches(output, [Take("a")])
    assert Page(write(output).read_text("utf-8")).verdicts["clips"] == {}
    verdict = Verdict("pick", 4, HOSTILE, "a.mp4", 12.5)
    page = Page(write(output, verdicts=Verdicts("out", 13.0, {sha256_of(1): verdict})).read_text("utf-8"))
    assert page.verdicts["clips"][sha256_of(1)] == {
        "verdict": "pick", "stars": 4, "note": HOSTILE, "file": "a.mp4", "at": 12.5
    }  # fmt: skip
    assert "<" not in page.scripts[1]


@pytest.mark.parametrize("is_running", [False, True])
def test_the_page_knows_whether_it_was_written_during_a_run(output: Path, is_running: bool) -> None:
    record_batches(output, [Take("a")])
    assert Page(write(output, is_running=is_running).read_text("utf-8")).facts["running"] is is_running


def _luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _palettes(style: str) -> Iterator[dict[str, str]]:
    for block in re.findall(r":root \{([^}]*)\}", style):
        yield dict(re.findall(r"--(\w+): #([0-9a-f]+);", block))


def test_text_has_enough_contrast_in_the_light_and_the_dark_scheme(output: Path) -> None:
    light, dark = _palettes(page_of(output, Take("a")).style)
    assert set(light) == set(dark)
    for palette in (light, dark):
        for ink, ground in [
            *((ink, ground) for ink in ("ink", "soft", "hot") for ground in ("page", "panel", "raised")),
            *((ink, "panel") for ink in ("bad", "star")),
            ("goink", "go"),
            ("hotink", "hot"),
        ]:
            darker, lighter = sorted((_luminance(palette[ink]), _luminance(palette[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


def test_the_page_can_be_written_during_a_run(output: Path) -> None:
    async def steps(journal: SqliteJournal) -> None:
        takes = [Take("a"), Take("b", "accepted"), Take("c", WITHOUT_ATTEMPT)]
        await enroll(journal, *takes)
        for take in takes:
            await attempt(journal, take)
        assert [row.get("state") for row in page_of(output).rows] == [None, "accepted", "planned"]
        await attempt(journal, Take("c"))
        assert [row.get("state") for row in page_of(output).rows] == [None, "accepted", None]

    record(output, steps)


def test_totals_and_rows_are_from_one_snapshot_while_a_run_writes(output: Path) -> None:
    async def steps(journal: SqliteJournal) -> None:
        await enroll(journal, Take("a"), Take("b"))
        await attempt(journal, Take("a"))
        with ExitStack() as stack:
            pieces = html(read_journals(stack, output, None), "out", sources=Sources(output))
            head = next(pieces)
            await attempt(journal, Take("b"))
            page = Page(head + "".join(pieces))
        assert "<b>1</b> clip · <b>1</b> waiting" in page.text
        assert [row.get("state") for row in page.rows] == [None, "planned"]

    record(output, steps)


def test_the_journal_may_be_in_another_folder(tmp_path: Path, output: Path) -> None:
    record_batches(tmp_path / "elsewhere", [Take("a")])
    page = write(output, home=tmp_path / "elsewhere" / FOLDER)
    assert page == output / NAME
    assert Page(page.read_text("utf-8")).rows[0]["id"] == "a"


def test_without_a_journal_nothing_is_written(output: Path) -> None:
    for folder in (output, output / "nowhere"):
        with pytest.raises(Unusable, match=NO_JOURNAL):
            write(folder)
    assert list(output.iterdir()) == []


def test_an_empty_journal_file_counts_as_no_journal(output: Path) -> None:
    (output / FOLDER).mkdir()
    (output / FOLDER / FILE).touch()
    with pytest.raises(Unusable, match=NO_JOURNAL):
        write(output)
    assert [path.name for path in output.iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (f"PRAGMA user_version = {VERSION + 1}", "newer version"),
        ("DROP TABLE clips", "is damaged"),
        ("UPDATE jobs SET spec = '{'", "is damaged: job a can't be read"),
        ("UPDATE jobs SET name = CAST(x'ff' AS TEXT)", f"the journal .*{FILE} is damaged .*Could not decode"),
        (None, "damaged"),
    ],
)
def test_a_journal_that_cannot_be_read_leaves_the_old_page(output: Path, damage: str | None, message: str) -> None:
    record_batches(output, [Take("a")])
    page = write(output)
    before = page.read_bytes()
    if damage is None:
        (output / FOLDER / FILE).write_bytes(b"no database, but long enough to be read as one" * 100)
    else:
        with closing(database(output)) as db, db:
            db.execute(damage)
    with pytest.raises(Unusable, match=message):
        write(output)
    assert page.read_bytes() == before
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_the_page_is_replaced_atomically_once_it_is_durable(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_batches(output, [Take("a")])
    page = output / NAME
    page.write_bytes(b"old")
    linked = output / "linked"
    os.link(page, linked)
    seen: list[str] = []

    def fsync(descriptor: int) -> None:
        assert page.read_bytes() == b"old"
        seen.extend(path.name for path in output.glob("*.tmp"))
        os.fsync(descriptor)

    monkeypatch.setattr(page_module, "fsync", fsync)
    assert write(output) == page
    assert [name for name in seen if re.fullmatch(r"gallery\.html\.[0-9a-f]{8}\.tmp", name)] == seen != []
    assert page.read_bytes().endswith(b"</html>\n")
    assert linked.read_bytes() == b"old"
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME, "linked"]


def test_a_full_disk_leaves_the_old_page(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_batches(output, [Take("a")])
    page = write(output)
    before = page.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(page_module, "fsync", full)
    with pytest.raises(Unusable, match=r"gallery\.html can't be used: No space left"):
        write(output)
    assert page.read_bytes() == before
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_a_folder_with_the_name_of_the_page_is_not_replaced(output: Path) -> None:
    record_batches(output, [Take("a")])
    (output / NAME).mkdir()
    with pytest.raises(Unusable, match=r"gallery\.html can't be used"):
        write(output)
    assert sorted(path.name for path in output.iterdir()) == [FOLDER, NAME]


def test_the_command_looks_whether_the_images_of_failed_jobs_are_such_that_prepare_helps(output: Path) -> None:
    images = {name: output.parent / f"{name}.png" for name in ("deep", "plain")}
    for name, image in images.items():
        image.write_bytes(png(bits=16 if name == "deep" else 8))
    states = {"failed": "deep", "cancelled": "deep", "stored": "deep", "other": "plain"}
    takes = [
        Take(state, "failed" if state == "other" else state, spec={"image": str(images[name])})
        for state, name in states.items()
    ]
    record_batches(output, [*takes, Take("web", "failed", spec={"image": "https://example.org/deep.png"})])
    assert in_process("gallery", str(output), cwd=output.parent).returncode == 0
    page = Page((output / NAME).read_text("utf-8"))
    assert {row["id"] for row in page.rows if row.get("prepare")} == {"failed", "cancelled"}


def test_the_command_prints_the_pages_path_and_exits_with_6_without_a_journal(tmp_path: Path, output: Path) -> None:
    record_batches(output, [Take("a")])
    done = in_process("gallery", str(output), cwd=tmp_path)
    assert done.returncode == 0
    assert Path(done.stdout.strip()) == output / NAME
    done = in_process("gallery", "nowhere", cwd=tmp_path)
    assert done.returncode == 6
    assert "no journal" in done.stderr
    assert "Traceback" not in done.stderr
