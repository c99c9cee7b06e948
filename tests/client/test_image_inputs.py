"""Images of jobs in every form, for single calls and batches."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from clients import PNG, Hooked, virtual_client, virtual_sandbox
from pictures import png
from PIL import Image

from wan_async import InvalidBatch, Job, JobFailed, open_batch
from wan_async.sandbox import Sandbox, transport

FORMS = ["bytes", "bytearray", "BytesIO", "file", "PIL", "data URI", "path", "text path"]


def image_in(form: str, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    path = folder / "cat.png"
    path.write_bytes(PNG)
    match form:
        case "bytes":
            return PNG
        case "bytearray":
            return bytearray(PNG)
        case "BytesIO":
            return io.BytesIO(PNG)
        case "file":
            return path.open("rb")
        case "PIL":
            return Image.new("RGB", (8, 8), "red")
        case "data URI":
            return "data:image/png;base64," + base64.b64encode(PNG).decode()
        case "path":
            return path
        case _:
            return str(path)


@pytest.mark.virtual_loops
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("uploads", ["accept", "refuse"])
async def test_an_image_in_any_form_reaches_the_service(form: str, uploads: str, tmp_path: Path) -> None:
    sandbox = virtual_sandbox(uploads=uploads)
    image = image_in(form, tmp_path / "in")
    job = Job(prompt="it yawns", image=image)
    if form == "file":
        image.close()
    async with virtual_client(sandbox) as client:
        for name in "ab":
            await client.generate(job, tmp_path / f"{name}.mp4")
    first, second = sandbox.account.tasks.values()
    assert first.image == second.image is not None
    if uploads == "accept":
        assert sandbox.requests["File/Upload"] == 1


@pytest.mark.virtual_loops
@pytest.mark.parametrize("image", [b"", b"text", io.BytesIO(b"text"), "data:image/png;base64,!!", "data:,hello"])
async def test_what_is_no_image_is_refused_before_anything_is_sent(image: Any, tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        with pytest.raises(InvalidBatch):
            await client.generate(Job(prompt="x", image=image), tmp_path)
        with pytest.raises(InvalidBatch):
            async with open_batch([Job(prompt="x", image=image)], output=tmp_path / "out", client=client):
                pass
    assert sum(sandbox.requests.values()) == 0


@pytest.mark.virtual_loops
@pytest.mark.parametrize("change", ["another", "gone"])
async def test_an_image_that_changes_before_its_run_is_not_sent(change: str, tmp_path: Path) -> None:
    sandbox, image = virtual_sandbox(uploads="refuse"), tmp_path / "cat.png"

    def meanwhile(request: httpx.Request) -> None:
        if request.url.path.endswith("/File/Upload"):
            image.write_bytes(png(b"another")) if change == "another" else image.unlink()

    image.write_bytes(PNG)
    async with virtual_client(Hooked(transport(sandbox), meanwhile)) as client:
        with pytest.raises((JobFailed, InvalidBatch)):
            await client.generate(Job(prompt="it yawns", image=image), tmp_path / "clip.mp4")
    assert (sandbox.requests["Run"], list(tmp_path.glob("clip*"))) == (0, [])


@pytest.mark.virtual_loops
async def test_after_a_failed_render_its_image_is_uploaded_anew(tmp_path: Path) -> None:
    sandbox, job = virtual_sandbox(), Job(prompt="it yawns", image=PNG)
    sandbox.next("failed_render")
    async with virtual_client(sandbox) as client:
        with pytest.raises(JobFailed):
            await client.generate(job, tmp_path / "a.mp4")
        for name in "bc":
            await client.generate(job, tmp_path / f"{name}.mp4")
    assert sandbox.requests["File/Upload"] == 2


async def batch(sandbox: Sandbox, folder: Path) -> list[Path | None]:
    jobs = [
        Job(id=form.replace(" ", "-"), prompt=form, image=image_in(form, folder / "in"))
        for form in FORMS
        if form != "file"
    ]
    async with virtual_client(sandbox) as client:
        async with open_batch(jobs, output=folder / "out", client=client) as run:
            async for _ in run:
                pass
    return [result.file for result in run.result.jobs]


@pytest.mark.virtual_loops
async def test_a_batch_of_images_in_every_form_is_stored_and_never_paid_again(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    files = await batch(sandbox, tmp_path)
    assert all(file is not None and file.exists() for file in files)
    paid = len(sandbox.account.tasks)
    assert await batch(sandbox, tmp_path) == files
    assert len(sandbox.account.tasks) == paid == len(FORMS) - 1
