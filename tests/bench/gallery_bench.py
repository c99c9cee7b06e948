"""The review page in a browser: first paint, frames while scrolling, long tasks and memory, at several sizes.

    python tests/bench/gallery_bench.py --sizes 300 1000 --before TREE
    python tests/bench/gallery_bench.py --sizes 1000 --scroll-for 60

`TREE` is a checkout of an earlier version, whose page is measured beside this one's, made from the same journal. Needs
the `dev` extra and a Chromium; `CHROMIUM` says where, if it is not on the path. Linux only: memory is read
from `/proc`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gallery_folders import sweep_folder
from playwright.sync_api import Page, sync_playwright

from wan_async.sandbox import clip_renderer

REPOSITORY = Path(__file__).parents[2]
ROUNDS = 3
HEADINGS = (
    "| clips | page | bytes a clip | first paint, ms | a frame while scrolling, ms: median, worst "
    "| long tasks: number, longest ms | memory of the renderer, MB |"
)
SCROLL_FRAMES = 240
SCROLL = """async (frames) => {
  const gaps = [];
  let last = performance.now();
  await new Promise((resolve) => {
    const frame = (now) => {
      gaps.push(now - last);
      last = now;
      scrollBy(0, 40);
      if (gaps.length < frames) requestAnimationFrame(frame);
      else resolve();
    };
    requestAnimationFrame(frame);
  });
  return gaps.slice(1);
}"""
BACK_AND_FORTH = """async ([steps, pauseMs]) => {
  const frame = () => new Promise(requestAnimationFrame), rest = () => new Promise((done) => setTimeout(done, pauseMs));
  const most = document.documentElement.scrollHeight - innerHeight;
  const way = scrollY > most / 2 ? -1 : 1;
  for (let step = 0; step < steps; step += 1) {
    for (let part = 0; part < 10; part += 1) { scrollBy(0, way * most / steps / 10); await frame(); }
    await rest();
  }
}"""
STEPS, PAUSE_MS = 30, 350
"""Steps of a pass from one end of the page to the other, with a rest after each in which frames of clips are drawn."""
GPU_FLAGS = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--enable-gpu-rasterization",
)
LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({ type: "longtask", buffered: true });
"""


@dataclass(frozen=True)
class Figures:
    """What one load and one scroll of a page cost. Times are in milliseconds, memory in MB."""

    first_paint: float
    median_frame: float
    worst_frame: float
    long_tasks: int
    longest_task: float
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument(
        "--scroll-for", type=float, metavar="SECONDS", help="only the memory, while the page is scrolled back and forth"
    )
    parser.add_argument("--gpu", action="store_true", help="with a GPU, which Chromium emulates (SwiftShader)")
    args = parser.parse_args()
    flags = GPU_FLAGS if args.gpu else ()
    trees = {"now": REPOSITORY} | ({"before": args.before} if args.before else {})
    if args.scroll_for is None:
        print(HEADINGS)
        print("|---|---|---|---|---|---|---|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "sweep"
            sweep_folder(output, size, rendered)
            for name, tree in trees.items():
                page = written_by(tree, output)
                if args.scroll_for is not None:
                    print(f"{size:,} clips, {name}: {memory_while_scrolling(page, args.scroll_for, flags)}", flush=True)
                    continue
                rounds = [figures_of(page, flags) for _ in range(ROUNDS)]
                print(line_of(size, name, page.stat().st_size / size, rounds), flush=True)


def rendered(path: Path, look: int) -> None:
    """Make a clip as the service would: 480P, 2.5 s."""
    path.write_bytes(clip_renderer.render(None, f"scene {look}", "480P", "16:9", str(look)))


def written_by(tree: Path, output: Path) -> Path:
    """The page that a version of this package writes."""
    command = [sys.executable, "-m", "wan_async", "gallery", str(output)]
    subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True, stdout=subprocess.DEVNULL
    )
    return output / "gallery.html"


def line_of(size: int, name: str, page_bytes: float, rounds: list[Figures]) -> str:
    def median(field: str) -> float:
        return float(statistics.median(getattr(each, field) for each in rounds))

    return (
        f"| {size:,} | {name} | {page_bytes:,.0f} | {median('first_paint'):,.0f} | "
        f"{median('median_frame'):.1f}, {median('worst_frame'):.0f} | "
        f"{median('long_tasks'):.0f}, {median('longest_task'):.0f} | {median('megabytes'):.0f} |"
    )


def figures_of(path: Path, flags: Sequence[str]) -> Figures:
    """Open a page in a new browser and scroll it."""
    with opened(path, flags) as page:
        page.wait_for_timeout(3000)
        paint = page.evaluate("performance.getEntriesByType('paint').at(-1).startTime")
        gaps = page.evaluate(SCROLL, SCROLL_FRAMES)
        tasks = page.evaluate("longTasks")
        page.wait_for_timeout(2000)
        memory = megabytes_of(b"renderer")
    return Figures(paint, statistics.median(gaps), max(gaps), len(tasks), max(tasks, default=0.0), memory)


def memory_while_scrolling(path: Path, seconds: float, flags: Sequence[str]) -> str:
    """Scroll a page from end to end and back; the memory of its renderer and of the GPU's process, in MB, by pass."""
    with opened(path, flags) as page:
        page.wait_for_timeout(3000)
        readings = [f"{_both()} at first"]
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            page.evaluate(BACK_AND_FORTH, [STEPS, PAUSE_MS])
            readings.append(f"{_both()} after {time.monotonic() - began:.0f} s")
    return ", ".join(readings)


@contextmanager
def opened(path: Path, flags: Sequence[str]) -> Iterator[Page]:
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", *flags])
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.add_init_script(LONG_TASKS)
        page.goto(path.as_uri())
        yield page
        browser.close()


def _both() -> str:
    return " + ".join(f"{megabytes_of(kind):.0f}" for kind in (b"renderer", b"gpu-process"))


def megabytes_of(kind: bytes) -> float:
    """Proportional memory of the browser's processes of a kind among this process's descendants."""
    parents: dict[int, int] = {}
    processes: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if b"--type=" + kind in (entry / "cmdline").read_bytes():
                processes.append(int(entry.name))
        except OSError:
            continue  # it has ended
    total = 0
    for each in processes:
        ancestor = each
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid():
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


if __name__ == "__main__":
    main()
