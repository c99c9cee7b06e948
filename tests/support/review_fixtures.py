"""A Chromium for the tests of the review page, and the folders that they open.

A pytest plugin that all tests load: it imports what it needs when a fixture is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from review import Review

BROWSER = os.environ.get("CHROMIUM", "")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The machine's own Chromium."""
    if not BROWSER:
        pytest.skip("only `nox -s browser` runs a Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def review(chromium: Any) -> Iterator[Review]:
    """A browser without any verdicts; it fails the test if a page's script does."""
    opened = Review(chromium)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two shots of four seeds at two resolutions. Tests don't change its folder."""
    from gallery_folders import folder_of, picture, sweep

    from wan_async.gallery.page import write

    output = tmp_path_factory.mktemp("review") / "sweep"
    images = output.parent / "images"
    shots = [("cat", picture(images / "cat.png")), ("rocket", picture(images / "rocket & co.png", 1))]
    folder_of(output, [*sweep((1, 2, 3, 4), ("480P", "720P"), shots)])
    return write(output)


@pytest.fixture(scope="session")
def mixed_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of single takes in all shapes, and of jobs without a clip."""
    from gallery_folders import Clip, folder_of

    from wan_async.gallery.page import write

    output = tmp_path_factory.mktemp("review") / "mixed"
    clips = [
        Clip("wide", "waves", aspect="16:9"),
        Clip("tall", "a tower", aspect="9:16"),
        Clip("square", "a tile", aspect="1:1"),
        Clip("שלום", "שלום עולם", 7, more={"negative_prompt": "rain"}),
        *(Clip(f"broken-{seed}", "smoke", seed, state="failed") for seed in range(1, 8)),
        Clip("stopped", "fog", state="cancelled"),
        Clip("nowhere", "mist", state="missing"),
        Clip("unclear", "dust", state="quarantined"),
        Clip("next", "hail", state="planned"),
    ]
    folder_of(output, clips)
    return write(output)
