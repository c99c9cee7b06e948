"""A model with other parameters than ours, from its batch file to its clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import World, make_sandbox, text_jobs
from pictures import png
from second_model import POSTER, PosterJob, PosterService

from wan_async.batch.reader import read_batch
from wan_async.batch.schema import schema
from wan_async.domain import events
from wan_async.domain.batch import Batch, from_jobs
from wan_async.domain.job import AnyJob
from wan_async.errors import InvalidBatch

PNG = png(b"\0" * 64)
BATCH = """
name: "{stem}-{style}-{steps}"
model: Acme/Poster
jobs:
  - {picture: cat.png, text: "a cat, {steps} strokes", matrix: {posterStyle: [flat, oil], steps: [5, "07"]}}
  - {id: plain, caption: only words}
"""


class PosterWorld(World):
    """A world whose service runs the second model; `runs` has what each Run sent."""

    runs: list[Any]


def poster_world(folder: Path, **settings: Any) -> PosterWorld:
    world = PosterWorld(folder, make_sandbox(**settings), model=POSTER)
    world.runs = []
    world.wrap = lambda inner: PosterService(inner, world.runs)
    return world


def read(folder: Path, text: str = BATCH) -> Batch:
    (folder / "cat.png").write_bytes(PNG)
    (folder / "batch.yaml").write_text(text)
    return read_batch(folder / "batch.yaml", job=PosterJob)


def jobs_of(batch: Batch) -> list[AnyJob]:
    return [planned.job for planned in batch.jobs]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_file_has_the_models_own_fields(tmp_path: Path) -> None:
    batch = read(tmp_path)
    cat = str(tmp_path / "cat.png")
    assert jobs_of(batch) == [
        PosterJob(picture=cat, text="a cat, 5 strokes", style="flat", steps=5),
        PosterJob(picture=cat, text="a cat, 7 strokes", style="flat", steps=7),
        PosterJob(picture=cat, text="a cat, 5 strokes", style="oil", steps=5),
        PosterJob(picture=cat, text="a cat, 7 strokes", style="oil", steps=7),
        PosterJob(id="plain", text="only words"),
    ]
    assert [one.name for one in batch.jobs] == ["cat-flat-5", "cat-flat-7", "cat-oil-5", "cat-oil-7", "text-flat-20"]
    folder = read_batch(tmp_path, prompt="a poster of {stem}", job=PosterJob)
    assert jobs_of(folder) == [PosterJob(picture=cat, text="a poster of cat")]
    (tmp_path / "batch.csv").write_text("text;posterStyle;steps\nrain;oil;3\n")
    assert jobs_of(read_batch(tmp_path / "batch.csv", job=PosterJob)) == [PosterJob(text="rain", style="oil", steps=3)]


def test_problems_name_the_models_own_fields(tmp_path: Path) -> None:
    with pytest.raises(InvalidBatch) as caught:
        read(tmp_path, "- {prompt: x}\n- {text: x, style: oils}\n- {text: x, steps: 51}\n- {picture: none.png}\n")
    wrong = [problem.message for problem in caught.value.problems]
    expected = [
        ("jobs[0].prompt", "unknown field"),
        ("jobs[1].style", 'did you mean "oil"'),
        ("jobs[2].steps", "50"),
        ("jobs[3].picture", "none.png"),
        ("jobs[3].text", "missing"),
    ]
    for place, fact in expected:
        assert any(message.startswith(place) and fact in message for message in wrong), (place, wrong)
    assert [field for field, _ in PosterJob(style="x", steps=0).problems()] == ["style", "steps", "text"]
    with pytest.raises(TypeError, match="prompt"):
        PosterJob(prompt="x")


def test_its_schema_has_the_models_own_fields() -> None:
    job = schema(POSTER)["$defs"]["job"]["properties"]
    assert job.keys() == {"id", "text", "style", "steps", "picture", "callback_url", "caption", "posterStyle",
                          "stepCount", "pictureUrl", "callbackUrl", "matrix"}  # fmt: skip
    assert (job["style"]["default"], job["steps"]["default"]) == ("flat", 20)


@pytest.mark.virtual_time
async def test_a_batch_runs_with_a_lost_answer_and_its_results_have_the_models_parameters(tmp_path: Path) -> None:
    world = poster_world(tmp_path, prices={"480P": 0.05, "720P": 0.2})
    jobs = jobs_of(read(tmp_path))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(jobs, name="{stem}-{style}-{steps}", settle_seconds=5, budget_micros=5_000_000)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 5, 5)
    assert sum(event.adopted for event in world.events_of(events.Accepted)) == 1
    assert len(world.events_of(events.Unknown)) == 1
    assert sorted(f"{event.price_usd:f}" for event in world.events_of(events.Submitting)) == ["0.05"] * 3 + ["0.20"] * 2
    assert all(list(sent) == ["text", "posterStyle", "stepCount", "pictureUrl"] for sent in world.runs)
    assert {sent["pictureUrl"] != "" for sent in world.runs} == {True, False}

    sidecar = json.loads((world.output / "cat-oil-7.json").read_text())
    assert sidecar["model"] == "Acme/Poster"
    url = sidecar["parameters"].pop("pictureUrl")
    assert url.startswith("http")
    assert sidecar["parameters"] == {"text": "a cat, 7 strokes", "posterStyle": "oil", "stepCount": "7"}
    results = lines(world.output / "results.jsonl")
    assert [result["name"] for result in results] == ["cat-flat-5", "cat-flat-7", "cat-oil-5", "cat-oil-7",
                                                      "text-flat-20"]  # fmt: skip
    assert {result["state"] for result in results} == {"stored"}

    again = await world.run(jobs, name="{stem}-{style}-{steps}")
    assert (again.exit_code, again.skipped, world.tasks) == (0, 5, 5)


@pytest.mark.virtual_time
async def test_a_run_that_created_no_task_is_resubmitted(tmp_path: Path) -> None:
    world = poster_world(tmp_path)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await world.run([PosterJob(text="rain")], settle_seconds=5)
    assert (finished.exit_code, world.tasks, len(world.runs)) == (0, 1, 2)


@pytest.mark.virtual_time
async def test_jobs_that_differ_in_no_echoed_field_are_quarantined(tmp_path: Path) -> None:
    world = poster_world(tmp_path, echo="empty")
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run([PosterJob(text="rain"), PosterJob(text="sun")], settle_seconds=5)
    assert (finished.exit_code, finished.unknown, world.tasks) == (5, 1, 2)


@pytest.mark.virtual_time
async def test_a_restored_journal_adopts_the_task_that_equals_a_job(tmp_path: Path) -> None:
    world = poster_world(tmp_path)
    first = PosterJob(text="rain", steps=1, id="a")
    assert (await world.run([first])).exit_code == 0
    before = {path: path.read_bytes() for path in world.home.iterdir() if path.is_file()}
    second = PosterJob(text="rain", steps=2, id="b")
    assert (await world.run([first, second])).exit_code == 0
    for path in world.home.iterdir():
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    (world.output / "b.mp4").unlink()
    (world.output / "b.json").unlink()
    stopped = await world.run([first, second])
    assert (stopped.exit_code, world.tasks) == (5, 2)
    adopted = await world.run([first, second], adopt=True)
    assert (adopted.exit_code, world.tasks) == (0, 2)
    assert (world.output / "b.mp4").exists()


@pytest.mark.virtual_time
async def test_after_uploads_are_refused_the_image_is_sent_in_the_models_file_field(tmp_path: Path) -> None:
    world = poster_world(tmp_path, uploads="refuse")
    (tmp_path / "cat.png").write_bytes(PNG)
    finished = await world.run([PosterJob(text="rain", style="oil", picture=str(tmp_path / "cat.png"))])
    assert (finished.exit_code, world.tasks) == (0, 1)
    (body,) = world.runs
    assert b'name="picture"; filename=' in body
    assert PNG in body


@pytest.mark.virtual_time
async def test_jobs_of_another_model_than_the_apis_are_refused_before_submission(tmp_path: Path) -> None:
    world = poster_world(tmp_path)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, world.tasks, world.runs) == (2, 0, [])
    with pytest.raises(InvalidBatch):
        from_jobs([PosterJob(text="x"), *text_jobs(1)])


@pytest.mark.virtual_time
async def test_a_folder_with_finished_jobs_of_another_model_can_be_used(tmp_path: Path) -> None:
    world = poster_world(tmp_path)
    assert (await World(tmp_path, world.sandbox).run(text_jobs(1))).exit_code == 0
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run([PosterJob(text="rain")], settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
async def test_a_folder_with_unfinished_jobs_of_another_model_is_refused(tmp_path: Path) -> None:
    world = poster_world(tmp_path, task_seconds=(60.0, 60.0))
    await World(tmp_path, world.sandbox).run_until(10, text_jobs(1))
    finished = await world.run([PosterJob(text="rain")])
    assert (finished.exit_code, world.tasks, world.runs) == (6, 1, [])
    assert (await World(tmp_path, world.sandbox).run(text_jobs(1))).stored == 1
