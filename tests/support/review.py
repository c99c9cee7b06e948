"""A review page in a browser, as its user sees it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Locator

WIDE = {"width": 1440, "height": 900}
MANY_MS = 20_000
"""How long a test waits for something: machines may be busy."""


class Review:
    """One browser profile: verdicts last as long as it does.

    Args:
        browser: a Chromium.
    """

    def __init__(self, browser: Browser, **options: Any) -> None:
        wanted: dict[str, Any] = {"viewport": WIDE} | options
        self.context = browser.new_context(**wanted)
        self.context.set_default_timeout(MANY_MS)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}"))
        self.page.on("console", lambda message: self._note(message.type, message.text))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith("Failed to load resource"):  # the page says so itself
            self.errors.append(text)

    def open(self, path: Path, fragment: str = "") -> Review:
        """Open the page; a fragment that differs from the current page's reloads it, too."""
        self.page.goto("about:blank")
        self.page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        return self

    def resize(self, width: int, height: int = WIDE["height"]) -> Review:
        """Give the window another size, and wait until the lines are laid out for it, which takes two frames."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.until(f"innerWidth === {width} && innerHeight === {height}")
        for _ in range(3):
            self.page.evaluate("new Promise((done) => requestAnimationFrame(done))")
        return self

    def close(self) -> None:
        self.context.close()
        assert not self.errors, self.errors

    @property
    def cells(self) -> list[str]:
        """What screen readers say of the cells, in reading order."""
        labels: list[str] = self.page.locator(".cell").evaluate_all("cells => cells.map((cell) => cell.ariaLabel)")
        return labels

    @property
    def ids(self) -> list[str]:
        return [label.partition(",")[0] for label in self.cells]

    @property
    def focused(self) -> str:
        """What screen readers say of the element with the focus."""
        return str(self.page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))

    @property
    def progress(self) -> str:
        return self.page.locator(".tally").inner_text()

    @property
    def tags(self) -> list[str]:
        """What the tags of the viewer's clips say."""
        return [" ".join(text.split()) for text in self.page.locator("#room .tag").all_inner_texts()]

    @property
    def shown(self) -> int:
        """How many takes the grid has, on the page or not."""
        return int(self.page.locator("#grid").get_attribute("data-shown") or "")

    @property
    def fragment(self) -> str:
        return str(self.page.evaluate("decodeURIComponent(location.hash.slice(1))"))

    def cell(self, take: str) -> Locator:
        """The cell of a take, by its id."""
        return self.page.locator(f'.cell[aria-label^="{take},"], .cell[aria-label="{take}"]')

    def focus(self, take: str) -> Review:
        self.cell(take).focus()
        return self

    def press(self, *keys: str) -> Review:
        for key in keys:
            self.page.keyboard.press(key)
        return self

    def button(self, name: str, within: str = "body") -> Locator:
        return self.page.locator(within).get_by_role("button", name=name, exact=True)

    def until(self, condition: str) -> Review:
        """Wait until JavaScript says so. Playwright's own waiting uses `eval`, which the page's policy forbids."""
        deadline = time.monotonic() + MANY_MS / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(20)
        return self

    def search(self, query: str) -> Review:
        """Type a query, and wait until it has an effect."""
        self.page.locator("#search").fill(query)
        return self.until(f"(new URLSearchParams(location.hash.slice(1)).get('q') ?? '') === {json.dumps(query)}")

    def hand_over(self, form: str) -> str:
        """Open a form of the dialog that hands over, and return its text."""
        if not self.page.locator("#box[open]").count():
            self.button("Hand over…", "#tray").click()
        self.button(form, "#box").click()
        area = self.page.locator("#box textarea")
        return area.input_value() if area.count() else self.page.locator("#box").inner_text()

    def saved(self, name: str = "Save file") -> Download:
        with self.page.expect_download() as waiting:
            self.button(name, "#box").click()
        return waiting.value

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The verdicts that the page exports, by file."""
        content = json.loads(self.hand_over("Verdicts"))
        self.press("Escape")
        return {entry.pop("file"): entry for entry in content["clips"].values()}

    def violations(self) -> list[str]:
        """What axe finds wrong with what is on the page now."""
        from importlib.resources import files

        self.page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{each['id']}: {each['help']}: {node['html'][:120]} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]
