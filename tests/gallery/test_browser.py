"""The page in a real Chromium: `nox -s browser` runs these tests; elsewhere they are skipped."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery_folders import COLOURS, Clip, film, folder_of, picture, set_hashes, sweep_folder
from gallery_pages import Take, hostile_page, record_batches
from PIL import Image, ImageColor
from review import Review

from wan_async.gallery import verdicts as verdict_files
from wan_async.gallery.page import NAME, write
from wan_async.gallery.verdicts import Verdict, Verdicts
from wan_async.journal.base import FOLDER
from wan_async.journal.last_command import LastCommand, keep

HELP = {
    "failed": "wan-async run BATCH --retry-failed",
    "missing": "wan-async run BATCH # asks again; --rerender pays for a new clip, --give-up ends it",
    "quarantined": (
        "wan-async status mixed # names their tasks, and how to assign one; run --resubmit-unknown may pay twice"
    ),
}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_takes_are_a_matrix_of_what_varies_the_most_varied_across(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    page = review.page
    assert page.locator(".head h2 bdi").all_inner_texts() == ["cat", "rocket"]
    assert page.locator(".head .prompt").first.inner_text() == "the cat moves slowly"
    assert page.locator(".head img.picture").count() == 2
    assert page.locator(".axis").first.locator("span").all_inner_texts() == [f"seed {seed}" for seed in (1, 2, 3, 4)]
    assert page.locator(".rowlabel").all_inner_texts()[:2] == ["480P", "720P"]
    assert review.ids[:8] == [f"cat-{seed}-{size}" for size in ("480P", "720P") for seed in (1, 2, 3, 4)]


def planned_sweep(output: Path, seeds: int) -> Path:
    """The page of a shot of two resolutions whose jobs wait."""
    takes = [
        Clip(f"a-{seed}-{size}", seed=seed, resolution=size, state="planned")
        for seed in range(1, seeds + 1) for size in ("480P", "720P")
    ]  # fmt: skip
    folder_of(output, takes)
    return write(output)


def test_a_matrix_without_room_for_all_columns_goes_on_in_bands(review: Review, tmp_path: Path) -> None:
    review.open(planned_sweep(tmp_path / "out", 8))
    axes = review.page.locator(".axis")
    assert [axes.nth(band).locator("span").all_inner_texts() for band in range(axes.count())] == [
        [f"seed {seed}" for seed in seeds] for seeds in ((1, 2, 3, 4), (5, 6, 7, 8))
    ]
    assert review.page.locator(".rowlabel").all_inner_texts() == ["480P", "720P"] * 2
    review.focus("a-3-720P")
    for key, take in [
        ("ArrowDown", "a-7-480P"), ("ArrowDown", "a-7-720P"), ("ArrowUp", "a-7-480P"), ("ArrowUp", "a-3-720P"),
        ("ArrowRight", "a-4-720P"), ("ArrowRight", "a-5-480P"), ("ArrowLeft", "a-4-720P"),
    ]:  # fmt: skip
        review.press(key)
        assert review.focused.startswith(take), key
        assert review.page.locator('.cell[tabindex="0"]').count() == 1
    review.resize(1920)
    review.until("document.querySelectorAll('.axis').length === 1")
    assert axes.locator("span").count() == 8


def test_on_a_phone_what_varies_less_is_across(review: Review, tmp_path: Path) -> None:
    review.resize(390, 844)
    review.open(planned_sweep(tmp_path / "out", 8))
    assert review.page.locator(".axis span").all_inner_texts() == ["480P", "720P"]
    labels = review.page.locator(".rowlabel").all_inner_texts()
    assert labels[:3] == ["seed 1", "seed 2", "seed 3"]
    assert review.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_takes_that_would_leave_most_of_a_matrix_empty_share_lines(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    sizes = ("480P", "580P", "720P")
    folder_of(output, [Clip(f"a-{seed}", seed=seed, resolution=sizes[seed % 3], state="planned") for seed in range(30)])
    review.open(write(output))
    assert review.page.locator(".axis").count() == 0
    assert review.ids[:6] == [f"a-{seed}" for seed in range(6)]


def test_clips_of_different_shapes_side_by_side_are_equally_high(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shapes = ("16:9", "9:16", "1:1")
    takes = [
        Clip(f"a-{number}-{seed}", seed=seed, aspect=aspect, state="planned")
        for number, aspect in enumerate(shapes) for seed in (1, 2)
    ]  # fmt: skip
    folder_of(output, takes)
    review.open(write(output))
    wells = "[...document.querySelector('.cells').querySelectorAll('.well')]"
    sizes = review.page.evaluate(f"{wells}.map((well) => [well.offsetWidth, well.offsetHeight])")
    (height,) = {height for _, height in sizes}
    assert [width / height for width, _ in sizes] == pytest.approx([9 / 16, 1, 16 / 9], rel=0.03) or [
        width / height for width, _ in sizes
    ] == pytest.approx([16 / 9, 9 / 16, 1], rel=0.03)


def test_shots_have_names_of_their_own(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prompts = {"text-0123abcd": "an empty street at night with rain", "cat": "the cat yawns", "cat-x": "the cat sleeps"}
    folder_of(
        output,
        [
            Clip(f"{name}-{seed}", prompt, seed, state="planned")
            for name, prompt in prompts.items() for seed in (1, 2)
        ],
    )  # fmt: skip
    page = write(output)
    page.write_text(page.read_text("utf-8").replace("cat-x", "cat"), "utf-8")
    review.open(page)
    assert review.page.locator(".head h2 bdi").all_inner_texts() == ["an empty street at night …", "cat (1)", "cat (2)"]


def test_a_shots_button_compares_marks_else_picks_else_the_row_with_the_focus(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    compare = review.page.locator(".acts .compare").first

    def compared() -> list[str]:
        compare.click()
        videos = review.page.locator("#room .pane video")
        names: list[str] = videos.evaluate_all("all => all.map((each) => each.ariaLabel)")
        review.press("Escape")
        return names

    assert compare.inner_text() == "Compare 4 of 8"
    review.focus("cat-2-720P")
    assert compared() == [f"cat-{seed}-720P" for seed in (1, 2, 3, 4)]
    review.focus("cat-1-480P").press("p").focus("cat-3-720P").press("p")
    assert compare.inner_text() == "Compare 2 of 8"
    assert compared() == ["cat-1-480P", "cat-3-720P"]
    for take in ("cat-4-480P", "cat-2-480P", "cat-2-720P"):
        review.focus(take).press("m")
    assert compare.inner_text() == "Compare 3 of 8"
    assert compared() == ["cat-4-480P", "cat-2-480P", "cat-2-720P"]
    assert review.page.locator(".acts .compare").nth(1).inner_text() == "Compare 4 of 8"


HELD_FRAMES = """
window.source = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, "src");
HTMLMediaElement.prototype.load = () => 0;
Object.defineProperty(HTMLMediaElement.prototype, "src", {
  configurable: true,
  set(value) { window.held = () => source.set.call(this, value); },
});
"""
"""Videos load nothing, until `held` gives the last one its file."""


def test_the_source_image_stands_in_for_a_frame_that_is_still_to_be_drawn(review: Review, sweep_page: Path) -> None:
    review.page.add_init_script(HELD_FRAMES)
    review.open(sweep_page)
    review.until("document.querySelectorAll('.well .stand-in').length >= 8")
    review.page.evaluate("Object.defineProperty(HTMLMediaElement.prototype, 'src', source); held()")
    review.until("[...document.querySelectorAll('.well canvas')].some((canvas) => canvas.width > 0)")
    drawn = "[...document.querySelectorAll('.well')].filter((well) => well.querySelector('canvas').width > 0)"
    review.until(f"{drawn}.every((well) => !well.querySelector('.stand-in'))")


LATE_STAND_INS = """
window.late = 0;
new MutationObserver((records) => {
  for (const { addedNodes } of records) for (const added of addedNodes) {
    if (added.className === "stand-in" && added.nextElementSibling?.width) late += 1;
  }
}).observe(document, { childList: true, subtree: true });
"""
"""Counts source images that are put in front of a frame that is there."""


def test_a_frame_that_is_there_is_not_drawn_again_when_the_lines_are_laid_out_anew(
    review: Review, sweep_page: Path
) -> None:
    """Regression: all that waited was drawn twice, since the first clip of a shot tells its shape."""
    review.page.add_init_script(LATE_STAND_INS)
    review.open(sweep_page)
    review.until("document.querySelectorAll('.cell canvas').length === 16")
    review.until("[...document.querySelectorAll('.cell canvas')].every((canvas) => canvas.width > 0)")
    review.until("document.querySelectorAll('.stand-in').length === 0")
    assert review.page.evaluate("late") == 0


@pytest.mark.parametrize("width", [1440, 820])
def test_stars_leave_what_a_take_is_in_its_caption(review: Review, tmp_path: Path, width: int) -> None:
    review.resize(width)
    output = tmp_path / "out"
    folder_of(output, [Clip("one"), Clip("two", prompt="two")])
    review.open(write(output)).focus("one").press("5")
    texts = "[...document.querySelectorAll('.cell')][0].querySelectorAll('.id, .values, .stars')"
    sizes = review.page.evaluate(f"[...{texts}].map((each) => each.scrollWidth - each.clientWidth)")
    assert sizes == [0, 0, 0]
    assert "seed 42" in review.page.locator(".cell .values").first.inner_text()


def test_seeds_are_across_if_as_many_as_the_resolutions(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder_of(
        output, [Clip(f"a-{seed}-{size}", seed=seed, resolution=size) for seed in (1, 2) for size in ("480P", "720P")]
    )
    review.open(write(output))
    assert review.page.locator(".axis span").all_inner_texts() == ["seed 1", "seed 2"]
    cells = "[...document.querySelectorAll('.cell')].map(cell => cell.getBoundingClientRect())"
    review.until(f"(boxes => boxes.length === 4 && boxes.every(box => box.height && box.bottom < 900))({cells})")


def test_earlier_takes_are_in_the_shot_of_their_job(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = [Clip(f"a-{seed}", seed=seed) for seed in (1, 2)]
    folder_of(output, first)
    record_batches(
        output, [Take("a-1", content="now", prompt="the cat yawns", files=(("new.mp4", "video/mp4"),)), first[1].take]
    )
    film(output / "new.mp4", 3)
    review.open(write(output))
    assert review.page.locator("h3").all_inner_texts() == ["Earlier takes"]
    assert review.page.locator(".head").count() == 1
    for width in (1920, 1440, 820, 390):
        review.resize(width)
        looks = review.page.evaluate(
            """[...document.querySelectorAll('.cell.earlier')].map((cell) =>
              [cell.querySelector('.former').innerText, cell.querySelector('.former').offsetHeight > 0,
               getComputedStyle(cell).borderStyle])"""
        )
        assert looks
        assert all(look == ["earlier", True, "dashed"] for look in looks)


def test_the_grid_is_one_tab_stop_that_arrows_move(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    stops = review.page.locator('.cell[tabindex="0"]')
    assert stops.count() == 1
    stops.focus()
    walk = [
        ("ArrowRight", "cat-2-480P"), ("ArrowDown", "cat-2-720P"), ("ArrowLeft", "cat-1-720P"),
        ("ArrowDown", "rocket-1-480P"),
        ("ArrowUp", "cat-1-720P"), ("End", "rocket-4-720P"), ("ArrowRight", "rocket-4-720P"), ("Home", "cat-1-480P"),
        ("ArrowUp", "cat-1-480P"),
    ]  # fmt: skip
    for key, take in walk:
        review.press(key)
        assert review.focused.startswith(take), key
        assert stops.count() == 1
    review.press("ArrowRight", "Tab")
    assert review.page.evaluate("document.activeElement.closest('#tray, .acts') !== null")
    review.press("Shift+Tab")
    assert review.focused.startswith("cat-2-480P")


def test_keys_judge_the_clip_with_the_focus(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-2-480P")
    for keys, label, progress in [
        (["p"], "cat-2-480P, 480P, seed 2, picked", "1 picked · 0 rejected · 15 to review"),
        (["x"], "cat-2-480P, 480P, seed 2, rejected", "0 picked · 1 rejected · 15 to review"),
        (["u"], "cat-2-480P, 480P, seed 2", "0 picked · 0 rejected · 16 to review"),
        (["4"], "cat-2-480P, 480P, seed 2, 4 stars", "0 picked · 0 rejected · 16 to review"),
        (["1"], "cat-2-480P, 480P, seed 2, 1 star", "0 picked · 0 rejected · 16 to review"),
        (["0"], "cat-2-480P, 480P, seed 2", "0 picked · 0 rejected · 16 to review"),
        (["p", "p"], "cat-2-480P, 480P, seed 2", "0 picked · 0 rejected · 16 to review"),
        (["Shift+P"], "cat-2-480P, 480P, seed 2, picked", "1 picked · 7 rejected · 8 to review"),
        (["Control+z"], "cat-2-480P, 480P, seed 2", "0 picked · 0 rejected · 16 to review"),
        (["n"], "Note", "0 picked · 0 rejected · 16 to review"),
    ]:
        review.press(*keys)
        assert (review.focused, review.progress) == (label, progress), keys
    review.page.keyboard.type("p, the opener")  # letters in a text are no keys
    review.press("Enter")
    review.until("document.activeElement.classList.contains('cell')")
    assert review.focused == "cat-2-480P, 480P, seed 2, Note: p, the opener"
    assert review.cell("cat-2-480P").locator(".note").inner_text() == "p, the opener"


def test_keys_of_the_grid(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P")
    page = review.page
    review.press("g")
    assert review.fragment == "by=flat"
    assert page.locator(".head").count() == 0
    review.press("g", "t")
    assert review.fragment == "frames=4"
    review.press("t", "/")
    assert review.focused == "Search"
    review.press("ArrowDown")
    assert review.focused.startswith("cat-1-480P")
    review.press("?")
    assert page.locator("#box dt").count() == 25
    review.press("Escape", "m", "ArrowRight", "m")
    assert page.locator(".mark").all_inner_texts() == ["A", "B"]
    review.press("c")
    assert page.locator("#room .pane").count() == 2
    review.press("Escape")
    assert review.focused.startswith("cat-1-480P")
    review.press("Escape")
    assert page.locator(".mark").count() == 0
    review.press("c")
    assert review.tags == [f"{'ABCD'[seed - 1]} · 480P · seed {seed} cat-{seed}-480P" for seed in (1, 2, 3, 4)]
    review.press("Escape", "e")
    assert page.locator("#box[open]").count() == 1
    review.press("Escape", " ")
    review.until("document.querySelectorAll('.cell video').length === 1")
    review.press(" ", "Enter")
    assert page.locator("#room h2").inner_text() == "cat-1-480P"


LATE_CLOSE = """
window.reported = window.pending = 0;
const listen = HTMLDialogElement.prototype.addEventListener;
HTMLDialogElement.prototype.addEventListener = function (name, act, ...rest) {
  const late = (event) => {
    pending += 1;
    setTimeout(() => { act.call(this, event); reported += 1; pending -= 1; }, 300);
  };
  listen.call(this, name, name === "close" ? late : act, ...rest);
};
"""
"""Dialogs report that they were closed as late as on a very busy machine."""


def test_keys_that_follow_the_end_of_a_dialog_at_once_are_not_lost(review: Review, sweep_page: Path) -> None:
    review.page.add_init_script(LATE_CLOSE)
    review.open(sweep_page).focus("cat-1-480P")
    page = review.page
    review.press("?", "Escape", "e").until("reported === 1")
    assert page.locator("#box h2").inner_text() == "Hand over 0 picks"
    review.press("Escape", "Enter", "Escape", "ArrowRight", "Enter")
    review.until("reported >= 2 && !pending")  # a dialog that is opened again at once may report one end only
    assert page.locator("#room h2").inner_text() == "cat-2-480P"
    review.press("Escape", "p")
    assert review.focused == "cat-2-480P, 480P, seed 2, picked"


def at_time(review: Review, selector: str = ".pane video") -> float:
    return float(review.page.locator(selector).first.evaluate("video => video.currentTime"))


def test_the_loupe_plays_steps_and_shows_facts(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("Enter")
    page = review.page
    names = page.locator(".info dt").all_inner_texts()
    assert names[:3] == ["resolution", "aspect ratio", "seed"]
    assert {"size", "cost", "task", "file"} <= set(names)
    assert page.locator(".strip button").count() == 8
    review.until("document.querySelector('.pane video').currentTime > 0.1")
    review.press(" ")
    review.until("document.querySelector('.pane video').paused")
    before = at_time(review)
    review.press(".", ".")
    assert at_time(review) == pytest.approx(before + 2 / 24, abs=0.03)
    review.press(",")
    assert at_time(review) == pytest.approx(before + 1 / 24, abs=0.03)
    review.button("A frame on", "#room").click()
    review.button("A frame back", "#room").click()
    assert at_time(review) == pytest.approx(before + 1 / 24, abs=0.03)
    page.locator("#room input[type=range]").fill("500")
    assert at_time(review) == pytest.approx(1.25, abs=0.03)
    assert re.fullmatch(r"1\.2\d / 2\.50 s", page.locator(".clock").inner_text())
    rates = []
    for key in ("]", "[", "["):
        review.press(key)
        rates.append(page.locator(".pane video").evaluate("video => video.playbackRate"))
    assert rates == [2, 1, 0.5]
    page.get_by_label("Speed").select_option("0.25")
    assert page.locator(".pane video").evaluate("video => video.playbackRate") == 0.25
    review.button("Play", "#room").click()
    review.until("!document.querySelector('.pane video').paused")


def test_the_loupe_zooms_and_shows_the_source_while_s_is_held(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("Enter", "z")
    page = review.page
    scale = "getComputedStyle(document.querySelector('.pane video')).transform"
    assert page.evaluate(scale) == "matrix(2.5, 0, 0, 2.5, 0, 0)"
    review.button("Zoom", "#room").click()
    assert page.evaluate(scale) == "none"
    page.keyboard.down("s")
    assert page.locator(".pane .source").count() == 1
    page.keyboard.up("s")
    assert page.locator(".pane .source").count() == 0
    for count in (1, 0):
        review.button("Source", "#room").click()
        assert page.locator(".pane .source").count() == count
    review.resize(820, 1100)
    assert not page.locator(".info").is_visible()
    review.press("i")
    assert page.locator(".info").is_visible()
    review.button("Facts", "#room").click()
    assert not page.locator(".info").is_visible()


def test_the_viewer_on_a_phone_has_few_rows_of_controls_that_a_finger_hits(chromium: Any, sweep_page: Path) -> None:
    phone = Review(chromium, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    phone.open(sweep_page).focus("cat-1-480P").press("Enter")
    page = phone.page
    page.locator("#room select.few").select_option("4")
    assert phone.tags == ["★★★★"]
    for keys in ([], ["c"]):
        phone.press(*keys)
        boxes = page.locator("#room :is(button, select):visible:not(.strip *)").evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect()).map(({ y, height }) => [Math.round(y), height])"
        )
        assert len({y for y, _ in boxes}) == 4
        assert min(height for _, height in boxes) >= 40
    phone.close()


@pytest.mark.parametrize("width", [390, 820])
def test_facts_leave_the_controls_of_a_narrow_screen_free(review: Review, sweep_page: Path, width: int) -> None:
    review.resize(width, 844)
    review.open(sweep_page).focus("cat-1-480P").press("Enter", "i")
    assert review.button("Facts", "#room").get_attribute("aria-pressed") == "true"
    for name in ("Close", "Zoom", "Pick", "Reject", "Note", "Pause"):
        review.button(name, "#room").click(trial=True)  # fails if something else would get the click
    review.page.get_by_label("Time").click(trial=True)
    review.press("i")
    assert review.button("Facts", "#room").get_attribute("aria-pressed") == "false"


def test_clips_are_judged_in_the_loupe_and_the_next_one_follows(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("Enter")
    title = review.page.locator("#room h2")
    review.press("3")
    steps: list[tuple[Callable[[], object], str]] = [
        (lambda: review.press("p"), "cat-2-480P"),
        (lambda: review.press("x"), "cat-3-480P"),
        (lambda: review.button("Pick", "#room").click(), "cat-4-480P"),
        (lambda: review.button("Reject", "#room").click(), "cat-1-720P"),
        (lambda: review.button("5 stars", "#room").click(), "cat-1-720P"),
        (lambda: review.press("ArrowRight"), "cat-2-720P"),
        (lambda: review.button("Previous clip", "#room").click(), "cat-1-720P"),
        (lambda: review.button("Next clip", "#room").click(), "cat-2-720P"),
        (lambda: review.press("u"), "cat-2-720P"),
        (lambda: review.page.locator(".strip button").nth(7).click(), "cat-4-720P"),
        (lambda: review.button("Mark for comparison", "#room").click(), "cat-4-720P"),
        (lambda: review.button("Note", "#room").click(), "cat-4-720P"),
    ]
    for act, shown in steps:
        act()
        assert title.inner_text() == shown
    review.page.keyboard.type("good")
    review.button("Save", "#box").click()
    review.button("Close", "#room").click()
    assert review.focused == "cat-4-720P, 720P, seed 4, marked as A, Note: good"
    assert review.page.locator("#room video").count() == 0
    verdicts = review.verdicts()
    assert {file: entry.get("verdict") for file, entry in verdicts.items()} == {
        "cat-1-480P.mp4": "pick", "cat-2-480P.mp4": "reject", "cat-3-480P.mp4": "pick", "cat-4-480P.mp4": "reject",
        "cat-1-720P.mp4": None, "cat-2-720P.mp4": None, "cat-4-720P.mp4": None,
    }  # fmt: skip
    assert (verdicts["cat-1-480P.mp4"]["stars"], verdicts["cat-1-720P.mp4"]["stars"]) == (3, 5)


def test_a_comparison_has_four_ways_and_judges_the_active_clip(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("m", "ArrowRight", "m", "ArrowRight", "m")
    page = review.page
    review.button("Compare 3", "#tray").click()
    assert page.locator(".pane").count() == 3
    assert review.button("Wipe", "#room").is_disabled()
    review.press("Escape").focus("cat-3-480P").press("m", "c")
    assert review.fragment.count("clip=") == 2
    stage = page.locator(".stage")
    for key, way in [("w", "wipe"), ("f", "flicker"), ("d", "difference"), ("v", "side")]:
        review.press(key)
        assert way in (stage.get_attribute("class") or "").split()
    for name, way in [("Wipe", "wipe"), ("Flicker", "flicker"), ("Difference", "difference"), ("Side by side", "side")]:
        review.button(name, "#room").click()
        assert way in (stage.get_attribute("class") or "").split()
    review.press("w")
    for at, other in [("A", "B"), ("B", "A")]:  # which clip is judged can be seen, though the panes lie on each other
        if page.locator(".judging b").inner_text() == other:
            review.press("ArrowRight")
        assert page.locator(".judging b").inner_text() == at
        outlines = page.locator(".tag").evaluate_all("tags => tags.map((tag) => getComputedStyle(tag).outlineStyle)")
        assert outlines == ["solid" if letter == at else "none" for letter in "AB"]
    review.press("Shift+ArrowRight")
    assert stage.evaluate("stage => stage.style.getPropertyValue('--wipe')") == "55%"
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50)
    assert stage.evaluate("stage => parseFloat(stage.style.getPropertyValue('--wipe'))") == pytest.approx(25, abs=1)
    review.press("v")
    page.locator(".pane").first.click()  # the way that flickers has changed which is active
    review.press("ArrowRight", "p", "ArrowRight", "x", "2")
    page.locator(".pane").nth(1).click()
    review.press("5")
    assert review.tags == [
        "A · ✕ rejected · ★★ · 480P · seed 1 cat-1-480P", "B · ✓ picked · ★★★★★ · 480P · seed 2 cat-2-480P"
    ]  # fmt: skip
    review.press("Shift+P", "Enter")
    assert page.locator("#room h2").inner_text() == "cat-2-480P"
    review.press("Escape")
    assert review.progress == "1 picked · 7 rejected · 8 to review"


def test_compared_clips_stay_in_step_over_ten_seconds(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("c")
    page = review.page
    review.until("[...document.querySelectorAll('.pane video')].every((video) => video.currentTime > 0.2)")
    readings = page.evaluate(
        """async () => {
          const videos = [...document.querySelectorAll('.pane video')], readings = [], start = performance.now();
          for (let last = start; last - start < 10000;) {
            const now = await new Promise(requestAnimationFrame), times = videos.map((video) => video.currentTime);
            readings.push([now - last, Math.max(...times) - Math.min(...times)]);
            last = now;
          }
          return readings;
        }"""
    )
    drifts = [drift for gap, drift in readings if gap < 40]  # a machine that is too busy to paint says nothing of it
    assert len(drifts) > 100
    assert max(drifts) < 0.04


def test_verdicts_survive_a_reload_and_travel_in_files(
    review: Review, chromium: Any, sweep_page: Path, tmp_path: Path
) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("p", "3", "n")
    review.page.keyboard.type("opener")
    review.press("Enter")
    review.focus("rocket-2-720P").press("x")
    review.page.reload()
    assert review.progress == "1 picked · 1 rejected · 14 to review"
    assert review.cells[0] == "cat-1-480P, 480P, seed 1, picked, 3 stars, Note: opener"
    review.hand_over("Verdicts")
    exported = tmp_path / "verdicts.json"
    review.saved().save_as(exported)
    verdicts = verdict_files.read(exported)
    assert {entry.file: (entry.verdict, entry.stars, entry.note) for entry in verdicts.clips.values()} == {
        "cat-1-480P.mp4": ("pick", 3, "opener"), "rocket-2-720P.mp4": ("reject", None, "")
    }  # fmt: skip
    other = Review(chromium)
    other.open(sweep_page).focus("rocket-2-720P").press("p")  # newer than the file's
    other.hand_over("Files")
    with other.page.expect_file_chooser() as chooser:
        other.button("Read verdicts…", "#box").click()
    chooser.value.set_files(exported)
    other.page.get_by_text("1 verdict read", exact=True).wait_for()
    other.press("Escape")
    assert other.progress == "2 picked · 0 rejected · 14 to review"
    other.close()


def test_a_file_that_has_no_verdicts_is_refused(review: Review, sweep_page: Path, tmp_path: Path) -> None:
    review.open(sweep_page).hand_over("Verdicts")
    for number, text in enumerate(["no JSON", "[]", '{"verdicts": 2, "clips": {}}', '{"verdicts": 1}']):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        review.page.locator("#box input[type=file]").set_input_files(file)
        review.page.get_by_text(f"{number}.json is no verdicts file").wait_for()


def test_verdicts_that_the_page_was_written_with_count_unless_the_browser_has_newer_ones(
    review: Review, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder_of(output, [Clip("a", seed=1), Clip("b", seed=2)])
    page = write(output)
    review.open(page).focus("a").press("x")
    hashes = {entry.get("file"): sha for sha, entry in json.loads(review.hand_over("Verdicts"))["clips"].items()}
    known = Verdicts("out", 5.0, {
        hashes["a.mp4"]: Verdict("pick", None, "", "a.mp4", 5.0),
        sha256(output / "b.mp4"): Verdict("pick", 2, "", "b.mp4", 5.0),
    })  # fmt: skip
    review.open(write(output, verdicts=known))
    assert review.cells == ["a, 480P, seed 1, rejected", "b, 480P, seed 2, picked, 2 stars"]


def test_verdicts_reach_other_windows_at_once(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    second = review.context.new_page()
    second.goto(sweep_page.as_uri())
    review.page.bring_to_front()
    review.focus("cat-1-480P").press("p")
    second.get_by_text("1 picked · 0 rejected · 15 to review").wait_for()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("seed:3", 4), ("seed 3", 4), ("seed:33", 0), ("res:720P", 8), ("720p", 8), ("resolution:480p seed:1", 2),
        ("-cat", 8),
        ("rocket -720P", 4), ('"moves slowly" cat', 8), ("moves slowly", 16), ("is:picked", 1), ("is:rejected", 1),
        ("is:open", 14), ("-is:open", 2), ("stars:4", 1), ("stars:>=2", 2), ("is:starred", 2), ("is:noted", 1),
        ("note:opener", 1), ("opener", 1), ("image:cat", 8), ("file:cat-1", 2), ("id:rocket-1-480p", 1),
        ("task:501", 1),
        ("is:stored", 16), ("prompt:rocket", 8), ("nothing", 0), ("shade:blue", 0), ("", 16),
    ],
)  # fmt: skip
def test_search_has_fields(judged: Review, query: str, found: int) -> None:
    judged.search(query)
    assert judged.shown == found
    text = judged.page.locator("#shown").inner_text()
    assert (f"No clip matches “{query}”" in text) is (found == 0)
    assert (f"{found} of 16 shown" in text) is (0 < found < 16)
    assert ("no field shade" in text) is (query == "shade:blue")
    assert judged.button("Clear filters").is_visible() is (query != "")


def test_on_a_narrow_screen_a_button_shows_the_filters_and_how_many_are_on(review: Review, sweep_page: Path) -> None:
    review.resize(390, 400)
    review.open(sweep_page)
    facets = review.page.locator("#facets")
    review.button("Filter", "#tray").click()
    assert review.page.get_by_label("Sort").is_visible()
    facets.get_by_label("720P").check()
    assert review.shown == 8
    assert review.page.evaluate("document.querySelector('main').inert")
    review.button("Show 8 clips").click()
    assert not facets.is_visible()
    assert review.page.locator("#shown").inner_text() == "8 of 16 shown"
    review.button("Filter · 1").click()
    facets.get_by_label("480P").check()
    review.button("Clear filters", "#facets").click()
    assert (review.shown, review.focused) == (16, "Show 16 clips")
    review.press("Escape")
    assert not facets.is_visible()
    assert review.focused == "Filter"
    review.button("Filter").click()
    review.resize(1440)
    review.until("!document.querySelector('main').inert")
    assert review.page.get_by_label("Sort").is_visible()
    review.cell("cat-1-480P").click()


def test_all_filters_and_the_search_are_cleared_at_once(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("rocket-1-480P").press("p").search("cat")
    review.page.locator("#facets").get_by_label("picked").check()
    assert review.page.locator("#shown").inner_text() == "No clip matches “cat” and 1 filter"
    review.button("Clear filters").click()
    assert (review.shown, review.fragment, review.page.locator("#search").input_value()) == (16, "", "")
    assert review.focused.startswith("cat-1-480P")
    assert not review.page.locator(".shown").is_visible()


@pytest.fixture(scope="module")
def judged(chromium: Any, sweep_page: Path) -> Iterator[Review]:
    """A page with a few verdicts."""
    review = Review(chromium)
    review.open(sweep_page).focus("cat-1-480P").press("p", "4", "n")
    review.page.keyboard.type("opener")
    review.press("Enter").focus("cat-2-480P").press("x", "2")
    yield review
    review.close()


def counts(review: Review) -> dict[str, str]:
    texts = review.page.locator("#facets label").all_inner_texts()
    return dict(text.rsplit("\n", 1) if "\n" in text else text.rsplit(maxsplit=1) for text in texts)


def test_facets_count_what_each_value_would_show(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("p")
    page = review.page
    assert page.locator("#facets legend").all_inner_texts() == ["Verdict", "Image", "Resolution", "Seed"]
    assert counts(review) == {
        "to review": "15", "picked": "1", "480P": "8", "720P": "8", "1": "4", "2": "4", "3": "4", "4": "4",
        "cat.png": "8",
        "rocket & co.png": "8",
    }  # fmt: skip
    page.locator("#facets").get_by_label("720P").check()
    page.locator("#facets").get_by_label("rocket & co.png").check()
    assert review.shown == 4
    assert (counts(review)["480P"], counts(review)["1"], counts(review)["cat.png"]) == ("4", "1", "4")
    assert review.fragment == "f.resolution=720P&f.image=rocket+&+co.png"
    page.locator("#facets").get_by_label("480P").check()
    assert review.shown == 8
    review.page.reload()
    assert review.shown == 8
    review.button("Clear filters").click()
    assert (review.shown, review.fragment) == (16, "")


def test_judging_what_is_filtered_by_verdict_moves_on(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    review.page.locator("#facets").get_by_label("to review").check()
    review.focus("cat-1-480P").press("p", "x")
    assert review.shown == 14
    assert review.focused.startswith("cat-3-480P")


def test_sorting_shows_all_takes_in_one_order(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("rocket-4-480P").press("5").focus("cat-2-720P").press("p").focus("cat-1-480P").press(
        "x"
    )
    review.page.get_by_label("Sort").select_option("stars")
    assert (review.ids[:2], review.ids[-1]) == (["cat-2-720P", "rocket-4-480P"], "cat-1-480P")
    assert review.fragment == "sort=stars"
    review.button("Shots", "header").click()
    assert review.fragment == ""
    for order in ("cost", "seconds", "bytes", "at"):
        review.page.get_by_label("Sort").select_option(order)
        assert review.shown == 16


def test_a_link_opens_a_clip_or_a_comparison(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-3-480P").press("Enter")
    link = review.fragment
    assert re.fullmatch(r"clip=[0-9a-f]{16}", link)
    title = review.page.locator("#room h2")
    review.open(sweep_page, link)
    assert title.inner_text() == "cat-3-480P"
    review.press("Escape")
    assert (review.fragment, review.focused[:10]) == ("", "cat-3-480P")
    review.open(sweep_page, "clip=rocket-1-480P.mp4&clip=cat-1-480P&view=wipe")
    assert review.page.locator(".stage.wipe .pane").count() == 2
    review.page.evaluate(f"location.hash = '#{link}'")
    review.until("document.querySelector('#room h2')?.textContent === 'cat-3-480P'")
    review.open(sweep_page, "clip=nothing&sort=nothing&f.seed=2")
    assert (review.shown, review.page.locator("#room[open]").count()) == (4, 0)


def test_files_and_copy_commands_are_those_of_the_picks(review: Review, tmp_path: Path) -> None:
    names = ["it's a cat", "-rf", "two  words", "$(touch owned)", "`touch owned`", "ünï; touch owned"]
    output = tmp_path / "out"
    folder_of(output, [Clip(name, seed=number) for number, name in enumerate(names)])
    review.open(write(output))
    for name in names:
        review.cell(name).focus()
        review.press("p")
    files = review.hand_over("Files").splitlines()
    assert sorted(files) == sorted("./-rf.mp4" if name == "-rf" else f"{name}.mp4" for name in names)
    review.hand_over("Copy command")
    review.button("Linux, macOS", "#box").click()
    command = review.page.locator("#box textarea").input_value()
    subprocess.run(["sh", "-c", command], cwd=output, check=True)
    assert sorted(path.name for path in (output / "picks").iterdir()) == sorted(f"{name}.mp4" for name in names)
    assert not (output / "owned").exists()
    review.button("PowerShell", "#box").click()
    assert "'it''s a cat.mp4'" in review.page.locator("#box textarea").input_value()
    assert "Copy-Item -LiteralPath" in review.page.locator("#box textarea").input_value()


def test_a_batch_file_has_the_picks_that_do_not_exist_yet(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("p").focus("rocket-2-720P").press("p")
    batch = json.loads(review.hand_over("Batch file"))
    assert [job["id"] for job in batch["jobs"]] == ["cat-1-480P", "rocket-2-720P"]
    assert batch["output"] == "picks-again", "not the folder of the copy command, whose files would be in its way"
    assert batch["jobs"][1] == {
        "id": "rocket-2-720P", "image": "../images/rocket & co.png", "prompt": "the rocket moves slowly",
        "resolution": "720P", "aspect_ratio": "Default", "seed": 2,
    }  # fmt: skip
    box = review.page.locator("#box")
    box.get_by_label("resolution").select_option("720P")
    assert "All of these clips exist already" in box.inner_text()
    box.get_by_label("resolution").select_option("580P")
    box.get_by_label("Seeds").select_option("2")
    assert "4 jobs" in box.inner_text()
    batch = json.loads(box.locator("textarea").input_value())
    assert [(job["id"], job["seed"], job["resolution"]) for job in batch["jobs"]] == [
        ("cat-580P-5", 5, "580P"), ("cat-580P-6", 6, "580P"), ("rocket-580P-5", 5, "580P"), ("rocket-580P-6", 6, "580P")
    ]  # fmt: skip
    assert batch["output"] == "picks-580P-seeds"
    assert review.saved().suggested_filename == "picks-580P-seeds.json"


def test_jobs_without_a_clip_are_grouped_with_the_command_that_helps(review: Review, mixed_page: Path) -> None:
    review.open(mixed_page)
    trouble = review.page.locator(".trouble")
    summary = trouble.locator("summary")
    assert summary.inner_text() == "10 jobs have no clip: 7 failed, 1 cancelled, 1 missing, 1 quarantined"
    assert not trouble.locator(".group").first.is_visible()
    summary.click()
    groups = trouble.locator(".group").all_inner_texts()
    why, again = "because of the weather", HELP["failed"]
    assert [re.sub(r"\s+", " ", group) for group in groups] == [
        f"7 failed: {why} broken-1, broken-2, broken-3, broken-4, broken-5 2 more 1 cancelled: {why} stopped {again}",
        f"1 missing: {why} nowhere (task 513) {HELP['missing']}",
        f"1 quarantined: several tasks match unclear {HELP['quarantined']}",
    ]
    review.button("2 more", ".trouble").click()
    assert "broken-7" in trouble.inner_text()
    assert "1 job is waiting" in review.page.locator("#notices").inner_text()
    review.button("Show them", ".trouble").click()
    assert review.shown == 10
    review.focus("broken-1").press("p", "Enter")
    assert review.page.locator(".pane .why").inner_text() == "because of the weather"
    review.press("p", "x", "m", "Escape")
    assert review.progress == "0 picked · 0 rejected · 4 to review"


def test_the_box_of_jobs_without_a_clip_is_closed_at_first_and_in_a_search_and_is_left_as_it_was(
    review: Review, mixed_page: Path
) -> None:
    review.open(mixed_page)
    is_open = "document.querySelector('.trouble').open"
    assert not review.page.evaluate(is_open)
    review.page.locator(".trouble summary").click()
    review.page.reload()
    assert review.page.evaluate(is_open)
    review.search("broken")
    assert not review.page.evaluate(is_open)
    assert review.page.locator("#shown").inner_text() == "7 of 15 shown"
    tops = [
        review.page.locator(each).evaluate("one => one.getBoundingClientRect().top") for each in ("#shown", "#notices")
    ]
    assert tops == sorted(tops), "what was found is above the notices"
    review.page.reload()
    assert not review.page.evaluate(is_open)
    review.button("Clear filters").click()
    assert review.page.evaluate(is_open)
    review.page.locator(".trouble summary").click()
    review.page.reload()
    assert not review.page.evaluate(is_open)


def test_failed_jobs_whose_image_not_every_renderer_reads_are_tried_again_with_prepare(
    review: Review, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    images = {name: str(tmp_path / f"{name}.{kind}") for name, kind in (("a", "heic"), ("b", "jpg"), ("c", "heic"))}
    states = {"a": "failed", "b": "failed", "c": "stored"}
    record_batches(output, [Take(name, states[name], spec={"image": image}) for name, image in images.items()])
    review.open(write(output, is_often_refused=lambda image: image.endswith(".heic")))
    review.page.locator(".trouble summary").click()
    groups = [re.sub(r"\s+", " ", text) for text in review.page.locator(".trouble .group").all_inner_texts()]
    why = "1 failed: because of the weather"
    assert groups == [f"{why} a {HELP['failed']} --prepare", f"{why} b {HELP['failed']}"]
    assert "paid for again: see plan" in review.page.locator(".trouble").inner_text()
    review.focus("a").press("Enter")
    assert review.page.locator(".info code").inner_text() == f"{HELP['failed']} --prepare"


def test_what_has_no_clip_is_told_apart(review: Review, mixed_page: Path) -> None:
    review.open(mixed_page, "by=flat&q=-is:stored")
    cells = "[...document.querySelectorAll('.cell .why')]"
    found = review.page.evaluate(
        f"{cells}.map((why) => [why.querySelector('b').textContent, getComputedStyle(why).backgroundColor])"
    )
    colours = dict(found)
    assert {"failed", "cancelled", "missing", "quarantined", "waiting"} == colours.keys()
    assert colours["failed"] == colours["cancelled"]
    assert colours["missing"] == colours["quarantined"]
    assert len(set(colours.values())) == 3


def test_commands_are_those_of_the_run_as_it_was_typed(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "my clips"
    takes = [Take("a", "failed"), Take("b", "quarantined")]
    record_batches(output, takes)
    review.open(write(output))
    codes = review.page.locator(".trouble code")
    review.page.locator(".trouble summary").click()
    assert codes.first.inner_text() == "wan-async run BATCH --retry-failed"
    assert "BATCH stands for" in review.page.locator(".trouble").inner_text()
    flags = ("--prompt", "it's slow", "--budget", "5")
    keep(output / FOLDER, LastCommand("my photos/b.yaml", "../my clips", True, flags))
    review.open(write(output))
    out = "'../my clips'"
    assert codes.all_inner_texts() == [
        f"wan-async run 'my photos/b.yaml' -o {out} --sandbox --prompt 'it'\\''s slow' --budget 5 --retry-failed",
        f"wan-async status {out} # names their tasks, and how to assign one; run --resubmit-unknown may pay twice",
    ]
    assert "in which the run was started" in review.page.locator(".trouble").inner_text()


def test_single_takes_share_lines_and_keep_their_shapes(review: Review, mixed_page: Path) -> None:
    review.open(mixed_page, "f.state=stored")
    page = review.page
    assert review.ids == ["wide", "tall", "square", "שלום"]
    review.until("[...document.querySelectorAll('.cell canvas')].filter((canvas) => canvas.width).length === 4")
    shapes = page.locator(".cell canvas").evaluate_all("list => list.map((canvas) => canvas.width / canvas.height)")
    assert shapes == pytest.approx([16 / 9, 9 / 16, 1, 1.5], rel=0.02)
    assert page.locator(".cell .words span").last.get_attribute("dir") == "auto"
    assert page.locator(".cell bdi").last.inner_text() == "שלום"
    direction = "getComputedStyle([...document.querySelectorAll('.cell .words span')].at(-1)).direction"
    assert page.evaluate(direction) == "rtl"


EARLY_EVENTS = """
const { get, set } = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, "currentTime");
Object.defineProperty(HTMLMediaElement.prototype, "currentTime", { get, set(time) {
  set.call(this, time);
  queueMicrotask(() => this.dispatchEvent(new Event("seeked")));
} });
window.drawn = [];
const shown = new WeakMap(), watch = HTMLVideoElement.prototype.requestVideoFrameCallback;
const { drawImage } = CanvasRenderingContext2D.prototype, { createElement } = Document.prototype;
Document.prototype.createElement = function (tag) {
  const made = createElement.call(this, tag);
  const note = (_, { mediaTime }) => { shown.set(made, mediaTime); watch.call(made, note); };
  if (tag === "video") watch.call(made, note);
  return made;
};
CanvasRenderingContext2D.prototype.drawImage = function (video, ...rest) {
  drawn.push(Math.abs(shown.get(video) - video.currentTime));
  drawImage.call(this, video, ...rest);
};
"""
"""Videos report a seek before the frame is there, as they do on a busy machine; notes how far drawn frames are off."""


@pytest.mark.parametrize("fragment", ["", "frames=4"])
def test_a_frame_is_drawn_when_it_is_there_not_when_its_seek_has_ended(
    review: Review, sweep_page: Path, fragment: str
) -> None:
    review.page.add_init_script(EARLY_EVENTS)
    review.open(sweep_page, fragment)
    review.until("drawn.length >= 16")
    assert review.page.evaluate("Math.max(...drawn)") < 2 / 24


def test_frames_are_late_in_the_clips_and_tell_seeds_apart(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    page = review.page
    review.until("[...document.querySelectorAll('.cell canvas')].slice(0, 8).every((canvas) => canvas.width > 0)")
    first, second = (page.locator(".cell canvas").nth(at).screenshot() for at in (0, 1))
    assert first != second
    picture = Image.open(io.BytesIO(first)).convert("RGB")
    square = picture.getpixel((int(picture.width * (0.7 * (144 - 24) + 12) / 144), picture.height // 3))
    assert isinstance(square, tuple)
    assert sum(abs(one - other) for one, other in zip(square, ImageColor.getrgb(COLOURS[1]), strict=True)) < 60
    assert page.locator("video[controls]").count() == 0
    assert page.locator("video").count() == 0  # the players that draw are not on the page
    review.button("Four frames", "header").click()
    review.until("document.querySelector('.cell canvas').width > 0")
    assert page.locator(".cell canvas").first.screenshot() != first


def test_hovering_plays_unless_motion_is_unwanted(review: Review, chromium: Any, sweep_page: Path) -> None:
    review.open(sweep_page)
    review.cell("cat-1-480P").hover()
    playing = "document.querySelector('.cell video')?.currentTime > 0"
    review.until(playing)
    review.cell("cat-2-480P").hover()
    review.until("document.querySelectorAll('.cell video').length === 1")
    review.page.mouse.move(0, 0)
    review.until("document.querySelectorAll('.cell video').length === 0")
    review.button("Play all").first.click()
    review.until("document.querySelectorAll('.cell video').length === 8")
    review.button("Stop").click()
    review.until("document.querySelectorAll('.cell video').length === 0")
    still = Review(chromium, reduced_motion="reduce")
    still.open(sweep_page).cell("cat-1-480P").hover()
    assert still.page.locator(".cell video").count() == 0
    still.close()


def test_the_focus_returns_from_a_dialog_although_the_lines_were_laid_out_again(
    review: Review, sweep_page: Path
) -> None:
    review.open(sweep_page).focus("cat-2-480P").press("n")
    review.page.evaluate("document.querySelectorAll('.cell').forEach((cell) => { cell.dataset.former = '1'; })")
    review.resize(390)
    review.until("!document.querySelector('[data-former]') && document.querySelectorAll('.cell').length > 0")
    review.press("Enter")
    review.until("document.activeElement.getAttribute('aria-label')?.startsWith('cat-2-480P')")


def test_clips_that_play_together_go_on_when_the_lines_are_laid_out_again(review: Review, sweep_page: Path) -> None:
    """Regression: the shape of the first clip, learned a moment later, or a narrower window stopped them."""
    review.open(sweep_page)
    review.button("Play all").first.click()
    review.until("document.querySelectorAll('.cell video').length === 8")
    review.page.evaluate("document.querySelectorAll('.cell').forEach((cell) => { cell.dataset.former = '1'; })")
    review.resize(390)
    review.until("!document.querySelector('[data-former]') && document.querySelectorAll('.cell').length > 0")
    review.until("document.querySelectorAll('.cell video').length === 8")
    review.button("Stop").click()
    review.until("document.querySelectorAll('.cell video').length === 0")
    assert review.button("Stop").count() == 0


def test_what_is_clicked_or_plays_stays_when_its_line_only_changes_its_size(review: Review, sweep_page: Path) -> None:
    """Regression: its element was replaced; a click that had begun did nothing, and a clip began anew."""
    review.open(sweep_page)
    review.until("[...document.querySelectorAll('.cell canvas')].every((canvas) => canvas.width > 0)")
    review.resize(1080)
    cell = review.cell("cat-2-480P")
    cell.hover()
    review.until("document.querySelector('.cell video').currentTime > 0")
    review.page.evaluate("document.querySelector('.cell video').dataset.former = '1'")
    review.page.keyboard.down("Control")
    review.page.mouse.down()
    review.resize(1100)
    review.page.mouse.up()
    review.page.keyboard.up("Control")
    review.until("document.querySelector('.cell .mark')?.innerText === 'A'")
    assert review.focused.startswith("cat-2-480P")
    assert review.page.evaluate("document.querySelector('.cell video').dataset.former") == "1"
    places = "[...document.querySelectorAll('.line, .cell, .well')].map((one) => one.getBoundingClientRect().toJSON())"
    fitted = review.page.evaluate(places)
    review.resize(390).resize(1100)
    assert review.page.evaluate(places) == fitted
    review.resize(1080)
    lines = "[...document.querySelectorAll('.cell')].map((cell) => cell.line.top - cell.parentElement.offsetTop)"
    assert [round(difference) for difference in review.page.evaluate(lines)] == [0] * 16


def test_a_clip_that_the_pointer_just_left_plays_with_all_others(review: Review, sweep_page: Path) -> None:
    """Regression: the end of the hovered video, which comes later, stopped the video that "Play all" had begun."""
    review.open(sweep_page)
    review.button("Play all").first.click()
    review.until("document.querySelectorAll('.cell video').length === 8")
    review.page.evaluate(
        """() => {
          const cell = document.querySelector('.cell:has(video)');
          const button = [...document.querySelectorAll('.acts button')].find((each) => each.textContent === 'Stop');
          button.click();
          cell.onpointerenter({ pointerType: 'mouse' });
          cell.onpointerleave();
          button.click();
        }"""
    )
    review.until("[...document.querySelectorAll('.cell video')].filter((each) => each.currentTime > 0).length === 8")


def test_a_double_click_or_a_tap_opens_and_control_click_marks(review: Review, chromium: Any, sweep_page: Path) -> None:
    review.open(sweep_page).cell("cat-1-480P").click()
    assert review.focused.startswith("cat-1-480P")
    assert review.page.locator("#room[open]").count() == 0
    review.cell("cat-1-480P").click(modifiers=["Control"])
    review.cell("cat-3-480P").click(modifiers=["Shift"])
    assert review.page.locator(".mark").all_inner_texts() == ["A", "B"]
    review.cell("cat-2-480P").dblclick()
    assert review.page.locator("#room h2").inner_text() == "cat-2-480P"
    phone = Review(chromium, viewport={"width": 390, "height": 844}, has_touch=True)
    phone.open(sweep_page).cell("cat-1-480P").tap()
    assert phone.page.locator("#room h2").inner_text() == "cat-1-480P"
    phone.button("Close", "#room").tap()
    phone.button("Filter", "#tray").tap()
    assert phone.page.locator("#facets").get_by_label("720P").is_visible()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_outputs_of_one_task_and_images_are_shown_each(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    files = (("a.mp4", "video/mp4"), ("a-2.png", "image/png"), ("a-3.bin", "application/x-thing"))
    record_batches(output, [Take("a", files=files)])
    film(output / "a.mp4", 1)
    picture(output / "a-2.png", 2)
    (output / "a-3.bin").write_bytes(b"thing")
    set_hashes(output)
    review.open(write(output))
    assert review.ids == ["a", "a", "a"]
    assert review.page.locator(".cell img:not(.thumb)").count() == 1
    assert "a-3.bin" in review.page.locator(".cell").nth(2).inner_text()
    review.page.locator(".cell").nth(1).focus()
    review.press("p", "Enter")
    assert review.page.locator(".pane img.clip").count() == 1
    review.press("Escape")
    assert list(review.verdicts()) == ["a-2.png"]


def test_the_time_of_the_render_is_in_the_loupe_and_on_cards_that_are_sorted_by_it(
    review: Review, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder_of(output, [Clip("a")])
    page = write(output)
    page.write_text(page.read_text("utf-8").replace('"seconds":0.0', '"seconds":4.0'), "utf-8")
    review.open(page)
    end = review.page.locator(".cell .end")
    assert end.text_content() == "$0.05"
    review.page.get_by_label("Sort").select_option("seconds")
    assert end.text_content() == "render 4.0 s · $0.05"
    review.focus("a").press("Enter")
    assert "rendered in\n4.0 s" in review.page.locator(".info").inner_text()


def test_a_clip_that_is_gone_is_said(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder_of(output, [Clip("a", seed=1), Clip("b", seed=2)])
    (output / "a.mp4").unlink()
    review.open(write(output))
    review.page.get_by_text("a.mp4 can't be shown").wait_for()


def test_a_page_of_a_run_reloads_itself_when_nobody_uses_it(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder_of(output, [Clip(f"a-{seed}", seed=seed) for seed in range(40)])
    page = review.page
    page.clock.install()
    review.open(write(output, is_running=True), "q=a-")
    assert "A run is on" in page.locator("#notices").inner_text()
    review.focus("a-0").press("End", "m")
    top = page.evaluate("scrollY")
    page.evaluate("window.isOld = true")
    review.press("Enter")
    page.clock.fast_forward(20_000)  # not while a clip is open
    assert page.evaluate("window.isOld") is True
    review.press("Escape", "/")
    page.clock.fast_forward(20_000)  # nor while somebody types
    assert page.evaluate("window.isOld") is True
    review.press("ArrowDown", "End")
    write(output, is_running=False)
    with page.expect_navigation():
        page.clock.fast_forward(20_000)
    assert page.evaluate("window.isOld") is None
    assert (review.fragment, review.focused) == ("q=a-", "a-39, 480P, seed 39, marked as A")
    assert page.evaluate("scrollY") == pytest.approx(top, abs=150)
    page.evaluate("window.isOld = true")
    page.clock.fast_forward(60_000)
    assert page.evaluate("window.isOld") is True


def test_without_javascript_the_page_links_to_the_clips(chromium: Any, sweep_page: Path) -> None:
    plain = Review(chromium, java_script_enabled=False)
    plain.open(sweep_page)
    links = plain.page.locator("noscript a")
    assert links.count() == 16
    assert links.first.inner_text() == "cat-1-480P.mp4"
    assert (sweep_page.parent / (links.first.get_attribute("href") or "")).is_file()
    plain.close()


def test_it_prints_as_a_contact_sheet_of_what_is_shown(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page, "f.image=cat.png").focus("cat-1-480P").press("p")
    page = review.page
    page.evaluate("window.print = () => { window.printed = document.querySelectorAll('#sheet canvas').length; }")
    review.press("Control+p")
    review.until("window.printed === 8")
    assert page.locator("#sheet canvas").evaluate_all("list => list.every((canvas) => canvas.width > 0)")
    paper = page.pdf()
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Subtype /Image") >= 8
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#sheet figure").count() == 8
    assert "✓" in page.locator("#sheet figcaption").first.inner_text()
    assert not page.locator("#grid").is_visible()


def test_hostile_texts_stay_texts(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    hostile_page(output)
    review.open(output / NAME)
    page = review.page
    page.locator(".cell .why").first.wait_for()
    assert "document.title='owned'" in page.locator("#grid").inner_text()
    review.page.locator(".cell").first.focus()
    review.press("Enter")
    assert "onerror=alert(1)" in page.locator(".info").inner_text()
    review.press("Escape", "p", "n")
    page.locator("#box input").fill("<img src=x onerror=alert(1)>")
    review.press("Enter")
    for form in ("Files", "Copy command", "Batch file", "Verdicts"):
        review.hand_over(form)
    review.press("Escape").search("<script>document.title='owned'</script>")
    assert page.title() == "out · clips"
    assert page.locator("script").count() == 3
    assert page.locator("img:not(.thumb, .picture)").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(chromium: Any, sweep_page: Path, mixed_page: Path, scheme: str) -> None:
    review = Review(chromium, color_scheme=scheme)
    found = review.open(mixed_page).violations()
    review.open(sweep_page).focus("cat-1-480P").press("p", "3", "ArrowRight", "x", "m")
    found += review.violations()
    review.press("Enter")
    found += review.violations()
    review.press("Escape").focus("cat-1-480P").press("m", "c")
    found += review.violations()
    review.press("Escape")
    for form in ("Files", "Batch file", "Verdicts"):
        review.hand_over(form)
        found += review.violations()
    review.press("Escape", "?")
    found += review.violations()
    assert found == []
    review.close()


def test_ten_thousand_clips_make_few_elements_and_memory_does_not_grow(review: Review, tmp_path: Path) -> None:
    output = tmp_path / "out"
    sweep_folder(output, 10_000)
    page = review.page
    review.open(write(output))
    page.locator(".cell").first.wait_for()
    assert review.shown == 10_000
    session = review.context.new_cdp_session(page)

    def heap_megabytes() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    def scrolled(steps: int) -> None:  # each line that is passed is drawn, and in the end every frame is there
        page.evaluate(
            """async (steps) => {
              for (let step = 0; step < 2 * steps; step += 1) {
                if (step % 2) scrollBy(0, 1700);
                await new Promise((done) => requestAnimationFrame(done));
              }
            }""",
            steps,
        )
        review.until("[...document.querySelectorAll('.cell canvas')].every((canvas) => canvas.width > 0)")

    scrolled(60)
    before = heap_megabytes()
    scrolled(120)
    assert page.locator("*").count() < 1500
    assert page.locator("canvas").count() <= 60
    assert page.locator("video").count() == 0
    assert heap_megabytes() < before + 1
    review.page.locator("#search").fill("seed:3 res:720P")
    review.until("document.querySelector('#grid').dataset.shown === '833'")
    review.press("ArrowDown", "End")
    assert review.focused.startswith("s832-3-720P")
