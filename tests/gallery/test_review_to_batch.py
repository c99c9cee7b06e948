"""From a sweep to its picks in a better resolution: page, batch file, `plan`, `run`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from review import Review
from servers import command_line

CAT = Path(__file__).parents[2] / "batches" / "images" / "cat.jpg"
SWEEP = """
defaults: {negative_prompt: blurry}
jobs:
  - {id: cat, image: cat.jpg, prompt: the cat yawns, matrix: {seed: [1, 2, 3, 4], aspect_ratio: ["16:9", "1:1"]}}
  - {id: rain, prompt: rain on a tin roof, matrix: {seed: [1, 2, 3, 4], aspect_ratio: ["16:9", "9:16"]}}
"""


def command(*words: str | Path, cwd: Path) -> None:
    """Run the command line in a process, since Playwright's event loop runs in this one. It must succeed."""
    done = command_line(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr


def test_the_picks_of_a_sweep_are_what_their_batch_file_renders(review: Review, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    sandbox = ("--sandbox", "--yes", "-c", "16")
    command("run", "sweep.yaml", *sandbox, "-o", "sweep", cwd=tmp_path)
    command("gallery", "sweep", cwd=tmp_path)
    review.open(tmp_path / "sweep" / "gallery.html")
    assert review.progress == "0 picked · 0 rejected · 16 to review"
    assert len(review.cells) == 16
    ids = review.ids
    review.focus(ids[1]).press("Shift+P")
    review.focus(ids[6]).press("Enter", "p", "Escape")
    review.focus(ids[8]).press("x", "ArrowRight", "p")
    assert [label.split(",")[0] for label in review.cells if ", picked" in label] == [ids[1], ids[6], ids[9]]
    review.hand_over("Batch file")
    review.page.locator("#box").get_by_label("resolution").select_option("720P")
    saved = review.saved()
    assert saved.suggested_filename == "picks-720P.json"
    batch = tmp_path / "sweep" / saved.suggested_filename
    saved.save_as(batch)
    jobs = json.loads(batch.read_text("utf-8"))["jobs"]
    assert {job["resolution"] for job in jobs} == {"720P"}
    command("plan", batch, "--sandbox", cwd=tmp_path)
    command("run", batch, *sandbox, "-o", "final", cwd=tmp_path)
    rendered = {path.stem for path in (tmp_path / "final").glob("*.mp4")}
    names = {job["id"]: job["id"].replace(":", "-") for job in jobs}  # a colon can't be in a file's name
    assert rendered == set(names.values())
    assert len(rendered) == 3
    for job in jobs:
        sidecar = json.loads((tmp_path / "final" / f"{names[job['id']]}.json").read_text("utf-8"))
        sent = sidecar["parameters"]
        assert (sent["prompt"], sent["negativePrompt"], sent["seed"], sent["resolution"], sent["aspectRatio"]) == (
            job["prompt"], "blurry", str(job["seed"]), "720P", job["aspect_ratio"]
        )  # fmt: skip
