from __future__ import annotations

import base64
import hashlib
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
)
from servers import in_process

from wan_async.errors import Unusable
from wan_async.gallery import page as page_module
from wan_async.gallery.page import NAME, html, read_journals, write
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
        (tag, attrs) if "datetime" not in attrs else page.tags[at] for at, (tag, attrs) in enumerate(plain.tags)
    ]
    assert "owned" not in page.visible
    assert page.scripts[1] == plain.scripts[1]
    assert "<" not in page.scripts[0]
    assert page.scripts[0].isascii()
    assert page.rows[0]["id"] == page.rows[0]["key"] == HOSTILE
    for row in page.rows:
        assert row["parameters"]["prompt"] == row["parameters"]["negative_prompt"] == HOSTILE


@pytest.mark.skipif(os.name == "nt", reason="such names can't exist there")
def test_a_hostile_folder_name_is_escaped_in_the_title(tmp_path: Path) -> None:
    folder = tmp_path / "<\u2215title><script>alert(1)<\u2215script>&amp;\"'\u202e"
    folder.mkdir()
    page = page_of(folder, Take("a"))
    assert page.count("script") == 2
    assert "&lt;script&gt;alert(1)" in page.text
    assert "&amp;amp;&quot;&#x27;" in page.text


@pytest.mark.skipif(os.name == "nt", reason="such names can't exist there")
def test_a_folder_name_that_is_not_unicode_is_shown_with_replacements(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only Unicode names")  # as macOS's does
    assert "<h1>caf?</h1>" in page_of(folder, Take("a")).text


def test_the_title_is_the_folders_name_for_relative_paths_too(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_batches(output, [Take("a")])
    (output / "sub").mkdir()
    for current, path in ((output, "."), (output / "sub", "..")):
        monkeypatch.chdir(current)
        assert "<h1>out</h1>" in write(Path(path)).read_text("utf-8")


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
        "script-src": [hashed(page.scripts[1])],
    }
    data, code = (tag for name, tag in page.tags if name == "script")
    assert data == {"type": "application/json", "id": "data"}
    assert code == {}


def test_the_page_refers_to_no_resource_but_its_clips(output: Path) -> None:
    page = page_of(output, Take("a"))
    for link in ("http:", "https:", "url(", "@import"):
        assert link not in page.text
    assert "//" not in re.sub(r"\s// .*", "", page.scripts[1])
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "video", "img", "source")
        assert not {"src", "href", "style"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)


def test_the_script_never_parses_text_as_markup_or_code(output: Path) -> None:
    _, code = page_of(output, Take("a")).scripts
    for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert call not in code


def test_no_video_is_loaded_before_it_is_near_the_window(output: Path) -> None:
    _, code = page_of(output, Take("a")).scripts
    assert 'preload: "none"' in code
    assert code.count("video.src = video.dataset.src") == 1
    assert code.index("new IntersectionObserver") < code.index("video.src = video.dataset.src")
    assert 'loading: "lazy"' in code


def test_thousands_of_clips_are_rows_of_data_and_not_elements(output: Path) -> None:
    record_many(output, 5000)
    page = page_of(output)
    assert len(page.rows) == 5000
    assert {len(row["clips"]) for row in page.rows} == {1}
    assert len(page.tags) < 40
    assert page.chips == {"": "5,000", "stored": "5,000"}
    assert len(page.text) < 5000 * 500


def test_the_page_is_accessible_without_a_mouse_and_to_screen_readers(output: Path) -> None:
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


def test_text_has_enough_contrast_in_the_light_and_the_dark_scheme(output: Path) -> None:
    light, dark = _palettes(page_of(output, Take("a")).style)
    assert set(light) == set(dark)
    for palette in (light, dark):
        for ink, ground in [
            *((ink, "card") for ink in ("ink", "soft", "go", "bad", "wait", "odd")),
            *((ink, "page") for ink in ("ink", "soft")),
            *((ink, "well") for ink in ("soft", "go")),
        ]:
            darker, lighter = sorted((_luminance(palette[ink]), _luminance(palette[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


def test_the_page_can_be_written_during_a_run(output: Path) -> None:
    async def steps(journal: SqliteJournal) -> None:
        takes = [Take("a"), Take("b", "accepted"), Take("c", WITHOUT_ATTEMPT)]
        await enroll(journal, *takes)
        for take in takes:
            await attempt(journal, take)
        assert [row["state"] for row in page_of(output).rows] == ["stored", "rendering", "waiting"]
        await attempt(journal, Take("c"))
        assert [row["state"] for row in page_of(output).rows] == ["stored", "rendering", "stored"]

    record(output, steps)


def test_totals_and_rows_are_from_one_snapshot_while_a_run_writes(output: Path) -> None:
    async def steps(journal: SqliteJournal) -> None:
        await enroll(journal, Take("a"), Take("b"))
        await attempt(journal, Take("a"))
        with ExitStack() as stack:
            pieces = html(read_journals(stack, output, None), "out")
            head = next(pieces)
            await attempt(journal, Take("b"))
            page = Page(head + "".join(pieces))
        assert page.chips == {"": "2", "stored": "1", "unfinished": "1"}
        assert [row["group"] for row in page.rows] == ["stored", "unfinished"]

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


def test_the_command_prints_the_pages_path_and_exits_with_6_without_a_journal(tmp_path: Path, output: Path) -> None:
    record_batches(output, [Take("a")])
    done = in_process("gallery", str(output), cwd=tmp_path)
    assert done.returncode == 0
    assert Path(done.stdout.strip()) == output / NAME
    done = in_process("gallery", "nowhere", cwd=tmp_path)
    assert done.returncode == 6
    assert "no journal" in done.stderr
    assert "Traceback" not in done.stderr
