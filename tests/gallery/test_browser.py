"""The page in a real Chromium: `nox -s browser` runs these tests; elsewhere they are skipped."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from gallery_pages import ERROR, Page, Take, hostile_page, record_batches, record_many

from wan_async.gallery.page import NAME, write

BROWSER = os.environ.get("WAN_ASYNC_BROWSER", "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="only `nox -s browser` runs a Chromium")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def browsed(page: Path, profile: Path) -> Page:
    """The page's elements after its script has run in the browser."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=2000 --window-size=1000,900 --dump-dom"
    )
    done = subprocess.run(
        [BROWSER, *flags.split(), f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    return Page(done.stdout)


def with_scripts(page: Path, before: str, after: str) -> Path:
    """A copy of the page without its Content-Security-Policy, and with scripts before and after its own."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    start, end = text.index('<script>"use strict"'), text.index("</body>")
    changed = page.with_name("changed.html")
    parts = (text[:start], f"<script>{before}</script>", text[start:end], f"<script>{after}</script>", text[end:])
    changed.write_text("".join(parts), "utf-8")
    return changed


def test_hostile_text_is_shown_as_text(tmp_path: Path, output: Path) -> None:
    hostile_page(output)
    seen = browsed(output / NAME, tmp_path / "profile")
    assert "<title>out · clips</title>" in seen.text
    assert seen.count("li") == 2
    assert seen.count("script") == 1  # the data's element is removed once it is read
    assert seen.count("img") == 0
    assert "document.title='owned'" in seen.visible
    assert ERROR in seen.visible
    assert [tag["dir"] for _, tag in seen.tags if tag.get("class") == "prompt"] == ["auto", "auto"]


def test_details_list_the_parameters_by_their_labels(tmp_path: Path, output: Path) -> None:
    spec = {"negative_prompt": "blurry", "image": "a/cat.png", "seed": 7, "aspect_ratio": "9:16"}
    record_batches(output, [Take("cat", spec=spec)])
    text = browsed(write(output), tmp_path / "profile").text
    assert re.findall(r"<dt>([^<]*)</dt><dd[^>]*>(?:<a[^>]*>)?([^<]*)", text) == [
        ("image", "cat.png"), ("avoids", "blurry"), ("resolution", "480P"), ("aspect ratio", "9:16"), ("seed", "7"),
        ("cost", "$0.05"), ("size", "1.5 MB"), ("task", "501"), ("file", "cat.mp4"),
    ]  # fmt: skip
    assert "480P · 9:16 · seed 7 · $0.05 · 1.5 MB" in text
    assert '<body class="tall">' in text


def test_of_thousands_of_clips_only_those_near_the_window_are_cards_and_videos(tmp_path: Path, output: Path) -> None:
    record_many(output, 2000)
    seen = browsed(write(output), tmp_path / "profile")
    assert 48 <= seen.count("li") < 200
    videos = [tag for name, tag in seen.tags if name == "video"]
    assert all(tag["data-src"] for tag in videos)
    assert sum("src" in tag for tag in videos) < len(videos) / 2


@pytest.mark.parametrize(("intersecting", "cards"), [([False, True], 96), ([True, False], 48)])
def test_the_last_of_several_intersection_entries_decides_whether_cards_are_added(
    tmp_path: Path, output: Path, intersecting: list[bool], cards: int
) -> None:
    record_many(output, 200)
    fake = """
        const fakes = [];
        window.IntersectionObserver = class {
          constructor(report) { this.report = report; fakes.push(this); }
          observe() {} unobserve() {} disconnect() {}
        };"""
    entries = json.dumps([{"isIntersecting": each} for each in intersecting])
    page = with_scripts(write(output), fake, f"fakes[1].report({entries});")
    assert browsed(page, tmp_path / "profile").count("li") == cards


def test_search_words_and_state_buttons_select_cards(tmp_path: Path, output: Path) -> None:
    takes = [
        Take("coffee", prompt="Steam curls from an ESPRESSO", spec={"seed": 7}),
        Take("cat", prompt="the cat sips espresso", spec={"seed": ""}),
        Take("dog", "failed", prompt="the dog spills espresso"),
    ]
    record_batches(output, takes)
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
    observe = """;results.push([
        [...document.querySelectorAll("h2 span:first-child")].map((span) => span.textContent),
        find("shown").textContent,
        document.querySelectorAll(".empty").length,
        [...chips].map((chip) => chip.ariaPressed),
    ]);"""
    actions = "".join(action + observe for action, _, _ in wanted)
    script = f"const results = []; {actions} document.body.id = JSON.stringify(results);"
    seen = browsed(with_scripts(write(output), "", script), tmp_path / "profile")
    (results,) = [json.loads(tag["id"] or "") for name, tag in seen.tags if name == "body"]
    for (action, ids, shown), result in zip(wanted, results, strict=True):
        assert result[:3] == [ids, shown, int(not ids)], action
        assert result[3].count("true") == 1
