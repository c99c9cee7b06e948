"""The page's viewer, dialogs and contact sheet in a real Chromium, where what is seen counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gallery_folders import Clip, folder_of
from review import Review

from wan_async.gallery.page import write

LONG = "portrait-of-a-very-long-file-name-from-a-camera-roll-2026-11-27-IMG_004512-" * 2
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def gaps_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a shot in portrait with long names, in which two of six jobs have no clip."""
    output = tmp_path_factory.mktemp("gaps") / "out"
    states = ["stored", "failed", "planned", "stored", "stored", "stored"]
    clips = [Clip(f"{LONG}{seed}", seed=seed, aspect="9:16", state=state) for seed, state in enumerate(states, 1)]
    folder_of(output, [*clips, Clip("single", "rain")])
    return write(output)


def boxes(review: Review, selector: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = review.page.locator(selector).evaluate_all(
        "all => all.map((each) => each.getBoundingClientRect().toJSON())"
    )
    return found


def compare_two(review: Review, page: Path) -> Review:
    """Compare cat-1-480P, which is picked, and cat-2-480P, which is rejected and has a note."""
    review.open(page).focus("cat-1-480P").press("m", "p", "ArrowRight", "m", "x", "n")
    review.page.keyboard.type("too dark")
    return review.press("Enter", "c").until(
        "[...document.querySelectorAll('.pane video')].every((each) => each.videoWidth)"
    )


@pytest.mark.parametrize("key", ["w", "d"])
@pytest.mark.parametrize("width", [1440, 390])
def test_tags_are_outside_of_what_is_blended_or_clipped_and_apart(
    review: Review, sweep_page: Path, key: str, width: int
) -> None:
    review.resize(width, 844)
    compare_two(review, sweep_page).press(key)
    changed = review.page.locator("#room .tag").evaluate_all(
        """tags => tags.flatMap((tag) => {
          const above = [];
          for (let each = tag; each; each = each.parentElement) above.push(getComputedStyle(each));
          return above.filter((style) => style.mixBlendMode !== 'normal' || style.clipPath !== 'none');
        })"""
    )
    assert changed == []
    one, other = boxes(review, "#room .tag")
    assert one["right"] < other["left"] or one["bottom"] < other["top"]


def test_in_a_wipe_the_half_that_is_clicked_is_judged(review: Review, sweep_page: Path) -> None:
    compare_two(review, sweep_page).press("w")
    stage = review.page.locator(".stage")
    for left, letter in ((0.3, "A"), (0.7, "B"), (0.3, "A")):
        (box,) = boxes(review, ".stage")
        stage.evaluate("stage => { stage.onpointermove = null; stage.style.setProperty('--wipe', '50%'); }")
        review.page.mouse.click(box["left"] + left * box["width"], box["top"] + box["height"] / 2)
        assert review.page.locator(".judging b").inner_text() == letter


def test_a_long_name_leaves_the_verdict_and_the_seed_in_its_tag(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("c", "p", "4")
    assert review.tags[0] == f"A · ✓ picked · ★★★★ · 480P · 9:16 · seed 1 {LONG}1"
    cut = "all => all.map((each) => each.scrollWidth > each.clientWidth)"
    assert review.page.locator(".tag > span").evaluate_all(cut) == [False] * 4
    assert review.page.locator(".tag > .id").evaluate_all(cut) == [True] * 4
    for pane, tag in zip(boxes(review, ".pane"), boxes(review, ".tag"), strict=True):
        assert pane["left"] < tag["left"]
        assert tag["right"] < pane["right"]


def test_panes_are_arranged_so_that_clips_are_large(review: Review, sweep_page: Path, gaps_page: Path) -> None:
    def arranged(sizes: dict[tuple[int, int], int]) -> None:
        for (width, height), columns in sizes.items():
            review.resize(width, height)
            lefts = "[...document.querySelectorAll('.pane')].map((each) => each.getBoundingClientRect().left)"
            review.until(f"new Set({lefts}).size === {columns}")

    compare_two(review, sweep_page)
    arranged({(390, 844): 1, (820, 1100): 1, (1440, 900): 2})
    review.open(gaps_page).focus(f"{LONG}1").press("c")
    arranged({(1440, 900): 4, (820, 1100): 2})


def test_the_pane_that_keys_judge_still_shows_its_verdict(review: Review, sweep_page: Path) -> None:
    compare_two(review, sweep_page)
    look = "pane => [getComputedStyle(pane).borderColor, getComputedStyle(pane).outlineStyle]"
    first = review.page.locator(".pane.pick")
    active, passive = (
        (first.evaluate(look), review.press("ArrowRight").page.locator(".judging b").inner_text()) for _ in range(2)
    )
    assert (active[1], passive[1]) == ("B", "A")
    assert active[0][0] == passive[0][0], "green, whether it is chosen or not"
    assert (active[0][1], passive[0][1]) == ("solid", "none")


def test_nothing_plays_in_a_job_without_a_clip(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("Enter")
    page = review.page
    controls = page.locator("#room :is(.play, [aria-label^='A frame'], [type=range], [aria-label=Speed])")
    assert controls.count() == 5
    review.until("document.querySelector('#room [type=range]').value > 100")
    review.button("Pause", "#room").focus()
    review.press("ArrowRight")
    assert controls.evaluate_all("all => all.every((each) => each.disabled)")
    assert (page.locator(".clock").inner_text(), page.locator("#room [type=range]").input_value()) == ("", "0")
    assert page.evaluate("document.activeElement.className").startswith("stage")
    review.press("ArrowLeft")
    assert not controls.evaluate_all("all => all.some((each) => each.disabled)")
    review.until("document.querySelector('.clock').textContent !== ''")


def test_a_verdict_is_followed_by_the_next_take_that_has_a_clip(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("Enter", "p")
    title = review.page.locator("#room h2")
    assert title.inner_text() == f"{LONG}4"
    review.press("ArrowLeft")
    assert title.inner_text() == f"{LONG}3", "arrows go to jobs without a clip, too"


def test_the_filmstrip_tells_rejected_clips_from_jobs_without_one(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("p").focus(f"{LONG}4").press("x", "Enter")
    assert review.page.locator(".strip button").all_inner_texts() == ["✓", "!", "\N{EN DASH}", "✕", "", ""]


def test_facts_take_room_from_the_clip_but_do_not_hide_it(review: Review, sweep_page: Path) -> None:
    review.resize(820, 1100)
    review.open(sweep_page).focus("cat-1-480P").press("Enter", "i")
    (stage,), (info,) = boxes(review, ".stage"), boxes(review, ".info")
    assert stage["right"] <= info["left"]
    assert info["right"] == 820


def test_the_loupe_has_a_tag_only_if_it_says_more_than_the_title(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).focus("cat-1-480P").press("Enter")
    assert not review.page.locator(".tag").is_visible()
    review.press("3")
    assert review.tags == ["★★★"]


def test_ways_for_two_clips_say_why_three_have_none(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("c")
    for name in ("Wipe", "Flicker", "Difference"):
        assert review.button(name, "#room").is_disabled()
        assert review.button(name, "#room").get_attribute("title") == "needs two clips"
    assert review.button("Side by side", "#room").is_enabled()


def test_a_message_begins_with_the_verdict_and_hides_no_clip(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("x")
    toast = review.page.locator("#toast")
    assert toast.inner_text().startswith("✕ rejected · ")
    assert boxes(review, "#toast")[0]["bottom"] < boxes(review, "header.top")[0]["bottom"]
    review.press("c", "ArrowRight", "p")
    assert toast.inner_text().startswith("✓ picked · ")
    assert boxes(review, "#toast")[0]["bottom"] < boxes(review, ".stage")[0]["top"]


def test_the_first_click_tells_what_others_do(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page).cell("cat-1-480P").click()
    toast = review.page.locator("#toast")
    assert "double click" in toast.inner_text()
    review.press("p")
    review.cell("cat-2-480P").click()
    assert "double click" not in toast.inner_text()


def test_the_list_of_keys_opens_at_its_top(chromium: Any, sweep_page: Path) -> None:
    phone = Review(chromium, **PHONE)
    phone.open(sweep_page).focus("cat-1-480P").press("?")
    box = phone.page.locator("#box")
    assert box.evaluate("box => box.scrollHeight > box.clientHeight && box.scrollTop") == 0
    assert phone.focused == "Close"
    box.evaluate("box => box.scrollTo(0, 10000)")
    assert phone.button("Close", "#box").is_visible()
    phone.button("Close", "#box").click(trial=True)
    phone.close()


def test_a_batch_file_can_be_copied_and_its_command_too(chromium: Any, sweep_page: Path) -> None:
    phone = Review(chromium, **PHONE, permissions=["clipboard-read", "clipboard-write"])
    phone.open(sweep_page).focus("cat-1-480P").press("p").focus("cat-2-480P").press("p").hand_over("Batch file")
    for name in ("Copy text", "Save file", "Close"):
        (box,) = boxes(phone, f"#box button:text-is('{name}')")
        assert box["bottom"] <= 844, name
    command = phone.page.locator("#box code").inner_text()
    assert command == "wan-async plan sweep/picks-again.json"
    clipboard = "navigator.clipboard.readText()"
    phone.button("Copy", "#box").click()
    phone.page.get_by_text("copied", exact=True).wait_for()
    assert phone.page.evaluate(clipboard) == command
    phone.button("Copy text", "#box").click()
    phone.until("document.querySelector('#box textarea').selectionEnd > 0")
    assert phone.page.evaluate(clipboard) == phone.page.locator("#box textarea").input_value()
    phone.press("Escape").focus("cat-1-480P").press("Enter")
    phone.button("Facts", "#room").click()
    phone.button("Copy link", "#room").click()
    phone.page.get_by_text("copied", exact=True).wait_for()
    link = str(phone.page.evaluate(clipboard))
    phone.page.goto("about:blank")
    phone.page.goto(link)
    assert phone.page.locator("#room h2").inner_text() == "cat-1-480P"
    phone.close()


def test_text_is_copied_where_the_browser_has_no_clipboard_for_pages(chromium: Any, sweep_page: Path) -> None:
    review = Review(chromium, permissions=["clipboard-read"])
    review.page.add_init_script(
        "if (navigator.clipboard) navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))"
    )
    review.open(sweep_page).focus("cat-1-480P").press("Enter")
    review.button("Copy", ".info").click()
    review.page.get_by_text("copied", exact=True).wait_for()
    assert review.page.evaluate("navigator.clipboard.readText()") == review.page.locator(".info code").inner_text()
    assert review.page.locator("textarea").count() == 0
    assert review.focused == "Copy"
    review.close()


NOTE_PRINTS = """() => {
  window.prints = [];
  window.print = () => {
    const figures = [...document.querySelectorAll('#sheet figure')];
    prints.push([figures.length, figures.filter((each) => each.querySelector('canvas')?.width > 0).length]);
  };
}"""


def test_a_second_print_joins_the_first_which_tells_how_far_it_is(review: Review, sweep_page: Path) -> None:
    review.open(sweep_page)
    page = review.page
    page.evaluate(NOTE_PRINTS)
    review.press("Control+p")
    assert page.locator("#toast").inner_text().startswith("preparing the sheet: ")
    review.press("Control+p")
    page.evaluate("dispatchEvent(new Event('afterprint'))")  # of the browser's own command, meanwhile
    review.until("prints.length > 0")
    review.until("document.querySelector('#toast').textContent === ''")
    assert page.evaluate("prints") == [[16, 16]]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#sheet > *").count() == 0


def test_a_sheet_has_clips_only_under_the_prompts_of_their_shots(review: Review, gaps_page: Path) -> None:
    review.open(gaps_page).focus(f"{LONG}1").press("p").focus(f"{LONG}4").press("x")
    page = review.page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#sheet h1").inner_text() == "out · 5 clips"
    assert page.locator("#sheet h2, #sheet section > p").all_inner_texts() == [LONG.rstrip("-"), "the cat yawns"]
    assert page.locator("#sheet section").evaluate_all(
        "all => all.map((each) => each.querySelectorAll('figure').length)"
    ) == [4, 1]
    assert page.locator("#sheet figcaption b[class]").all_inner_texts() == ["✓ picked", "✕ rejected"]
    assert page.locator("#sheet .words").all_inner_texts() == ["rain"]
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    review.search("seed:1")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#sheet h1").text_content() == "out · 1 of 5 clips"


def test_without_javascript_links_are_by_shot(chromium: Any, sweep_page: Path) -> None:
    plain = Review(chromium, java_script_enabled=False)
    plain.open(sweep_page)
    shots = plain.page.locator("noscript section")
    assert shots.locator("h2").all_inner_texts() == ["cat.png", "rocket & co.png"]
    assert shots.locator("p").first.inner_text() == "the cat moves slowly"
    assert [shots.nth(at).locator("a").count() for at in (0, 1)] == [8, 8]
    assert not plain.page.locator("#tray").is_visible()
    assert boxes(plain, "noscript section")[0]["left"] > 10
    plain.close()
