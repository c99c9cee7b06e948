"""A web service that makes clips of uploaded images, as an app that uses the library.

    python tests/apps/fastapi_app.py FOLDER [--loop uvloop]

Every task is in the database before anything else happens to it, so a start goes on with what an earlier one left. The
credentials are taken from the environment. It prints its URL when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse

from wan_async import Closed, InvalidBatch, Job, JobFailed, Missing, Task, WanClient, WanError, callback_app, open_batch

log = logging.getLogger("studio")
router = APIRouter()


class Database:
    """The service's jobs, with the task of each as text."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, task TEXT, state TEXT)")

    def add(self, job: str, task: Task) -> None:
        self._connection.execute("INSERT INTO jobs VALUES (?, ?, 'submitted')", (job, task.dumps()))

    def settle(self, job: str, state: str) -> None:
        self._connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, job))

    def job(self, job: str) -> tuple[Task, str]:
        row = self._connection.execute("SELECT task, state FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise HTTPException(404, "no such job")
        return Task.loads(row[0]), row[1]

    def jobs(self, state: str) -> dict[str, Task]:
        rows = self._connection.execute("SELECT id, task FROM jobs WHERE state = ?", (state,)).fetchall()
        return {job: Task.loads(task) for job, task in rows}

    def close(self) -> None:
        self._connection.close()


class Studio:
    """What the service's requests share."""

    def __init__(self, folder: Path, public_url: str) -> None:
        self.folder = folder
        self.database = Database(folder / "jobs.sqlite3")
        self.client = WanClient()
        self.callbacks = callback_app(self.client, secret="a-secret-of-this-installation")
        self.callback_url = self.callbacks.url(f"{public_url}/hooks")
        self.deliveries: dict[str, asyncio.Task[None]] = {}
        (folder / "clips").mkdir(exist_ok=True)

    def keep(self, job: str, task: Task) -> None:
        """A task exists, and costs money: it is recorded, and its clip will be saved whatever its client does."""
        self.database.add(job, task)
        self.deliver(job, task)

    def deliver(self, job: str, task: Task) -> None:
        self.deliveries[job] = asyncio.create_task(self._deliver(job, task))

    async def _deliver(self, job: str, task: Task) -> None:
        path = self.folder / "clips" / f"{job}.mp4"
        try:
            if not path.exists():
                await self.client.wait(task, to=path)
        except (Closed, Missing) as error:
            log.warning("job %s is left to the next start: %s", job, error)
        except WanError as error:
            self.database.settle(job, f"failed: {error}")
        else:
            self.database.settle(job, "stored")

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        for job, task in self.database.jobs("submitted").items():
            self.deliver(job, task)
        yield
        await self.client.aclose()
        await asyncio.gather(*self.deliveries.values())
        self.database.close()


async def _studio(request: Request) -> Studio:
    studio = request.app.state.studio
    assert isinstance(studio, Studio)
    return studio


Shared = Annotated[Studio, Depends(_studio)]


async def _chunks(studio: Shared, job: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The clip, which is open before the response begins, so that a failure has a status of its own."""
    task, _ = studio.database.job(job)
    async with studio.client.stream(task, chunk_bytes=1 << 16) as chunks:
        yield chunks


@router.post("/jobs", status_code=202)
async def submit(studio: Shared, image: UploadFile, prompt: Annotated[str, Form()]) -> dict[str, str]:
    """Submit a job; what costs money is recorded even if the caller has left by then."""
    job = uuid4().hex
    order = Job(image=await image.read(), prompt=prompt, callback_url=studio.callback_url)
    await studio.client.submit(order, on_submitted=partial(studio.keep, job))
    return {"job": job}


@router.get("/jobs/{job}/events")
async def events(studio: Shared, job: str) -> StreamingResponse:
    """The job's progress as server-sent events, until its task ends."""
    task, _ = studio.database.job(job)

    async def stream() -> AsyncIterator[str]:
        async with studio.client.track(task) as events:
            async for event in events:
                fields = {"event": type(event).__name__} | asdict(event)
                yield f"data: {json.dumps(fields, default=str)}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.get("/jobs/{job}/result")
async def result(studio: Shared, job: str) -> dict[str, str]:
    """Wait until the job's clip is saved, or can't be."""
    if job in studio.deliveries:
        await asyncio.wait([studio.deliveries[job]])
    return {"state": studio.database.job(job)[1]}


@router.get("/jobs/{job}/clip")
async def clip(chunks: Annotated[AsyncIterator[bytes], Depends(_chunks)]) -> StreamingResponse:
    """Wait for the job's clip, and send it."""
    return StreamingResponse(chunks, media_type="video/mp4")


@router.post("/batches/{name}")
async def batch(studio: Shared, name: str, prompts: list[str]) -> dict[str, object]:
    """Make a clip of each prompt, and wait for all of them."""
    jobs = [Job(id=f"{name}-{number}", prompt=prompt) for number, prompt in enumerate(prompts)]
    accepted = 0
    async with open_batch(jobs, output=studio.folder / "batches" / name, client=studio.client) as batch:
        async for event in batch:
            accepted += type(event).__name__ == "Accepted"
    files = [result.file.name for result in batch.result.stored if result.file is not None]
    return {"accepted": accepted, "files": files}


async def _failed(request: Request, error: Exception) -> JSONResponse:
    status = 422 if isinstance(error, InvalidBatch | JobFailed) else 503
    return JSONResponse({"detail": str(error)}, status)


def create_app(folder: Path, public_url: str) -> FastAPI:
    """The service; its data is in `folder`, and it is reached at `public_url`."""
    studio = Studio(folder, public_url)
    app = FastAPI(lifespan=studio.running)
    app.state.studio = studio
    app.include_router(router)
    app.add_exception_handler(WanError, _failed)
    app.mount("/hooks", studio.callbacks)
    return app


def main() -> None:
    """Serve on a free port of this machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = create_app(arguments.folder, url)
        print(url, flush=True)
        config = uvicorn.Config(app, loop=arguments.loop, timeout_graceful_shutdown=1, log_config=None)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
