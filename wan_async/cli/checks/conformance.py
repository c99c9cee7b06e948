"""The live conformance test of `doctor --render`: one clip, by a run as any other, and a recording of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio
from pydantic import SecretStr

from wan_async import errors
from wan_async.batch.plan import prepare
from wan_async.cli.api_settings import Access
from wan_async.cli.checks.account import gradient_png
from wan_async.cli.checks.base import Finding, failed, ok, warning
from wan_async.cli.checks.recording import Recording
from wan_async.cli.display import plain
from wan_async.cli.display_text import usd
from wan_async.cli.logs import logging_to
from wan_async.cli.signals import drive
from wan_async.domain.attempt import Account
from wan_async.domain.batch import from_jobs
from wan_async.domain.events import Finished
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.http.descriptor_limit import connections
from wan_async.http.transport import StackTransport
from wan_async.http.urls import is_private
from wan_async.journal.base import FOLDER
from wan_async.outputs.downloader import Downloader
from wan_async.wiro.api import Api

RESOLUTION = Job().resolution
"""The default, which is the cheapest."""
PROMPT = "the colours of a soft gradient drift slowly from left to right, still camera"
IMAGE_SIZE = (832, 480)


def price_of(prices: object) -> str:
    """What one clip costs, in words, by the prices that the check `price` found."""
    found = [each for name, each in prices.items() if RESOLUTION in name.split()] if isinstance(prices, dict) else []
    return f"${max(found, key=float)}" if found else "an amount that is not known in advance"


def render(access: Access, folder: Path) -> tuple[Finding, ExitCode]:
    """Render one clip into a folder, and write a recording beside it; returns the finding and the exit code.

    An earlier test in the same folder that was interrupted is finished first: its clip is paid for. The seed is new
    each time, so that there is something to render.

    Args:
        access: the account that pays.
        folder: the output folder, with a journal.
    """
    again = "run the same command again: a clip that was paid for is downloaded, and not rendered twice"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        seconds, path, descriptor = _new_file(folder, int(time.time()))
    except OSError as error:
        why = f"no recording can be written into {folder}: {error.strerror or error}"
        return failed("render", why, "choose another folder with -o"), ExitCode.ENVIRONMENT
    image = gradient_png(*IMAGE_SIZE)
    job = Job(id=f"doctor-{seconds}", prompt=PROMPT, image=image, seed=seconds)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file, logging_to(0, None):
        secrets = [access.key, access.secret or ""]
        recording = Recording(file, prompt=PROMPT, base_url=access.base_url, secrets=secrets)
        try:
            finished = anyio.run(_run, access, folder, job, recording)
        except errors.WanError as error:
            return failed("render", error.message, again), ExitCode.of_error(error)
    code = ExitCode(finished.exit_code)
    said = f"recorded {recording.lines} requests in {path}, without keys and tokens"
    facts = {"recording": str(path), "cost_usd": f"{finished.run_usd:f}"}
    if code != ExitCode.SUCCESS:
        return failed("render", f"the clip is not there (exit code {int(code)}); {said}", again, code, **facts), code
    took = f"{finished.seconds:.0f} s and {usd(finished.run_usd)}"
    if finished.stored != 1:
        return warning("render", f"{finished.stored} clips in {took}; {said}", "see `status` of the folder",
                       **facts), code  # fmt: skip
    return ok("render", f"one clip in {took}; {said}", **facts), code


def _new_file(folder: Path, seconds: int) -> tuple[int, Path, int]:
    """Make the file of a recording; returns the unix second that it is named by, its path and its descriptor."""
    while True:
        path = folder / time.strftime("recording-%Y%m%d-%H%M%S.jsonl", time.gmtime(seconds))
        try:
            return seconds, path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            seconds += 1


async def _run(access: Access, folder: Path, job: Job, recording: Recording) -> Finished:
    secret = SecretStr(access.secret) if access.secret else None
    transport = recording.wrapping(StackTransport(max_connections=connections()))
    api = Api(SecretStr(access.key), secret, base_url=access.base_url, transport=transport)
    downloads = recording.wrapping(StackTransport())
    downloader = Downloader(transport=downloads, allow_private=is_private(api.base_url), base_url=api.base_url)
    async with api, downloader:
        stream = EventStream()
        runner = Run(
            prepare(from_jobs([job]), folder / FOLDER),
            dependencies=Dependencies(api, downloader, socket_url=access.socket_url),
            account=Account(access.origin, access.key),
            output=folder,
            options=Options(retries=0),
            stream=stream,
        )
        with plain(sys.stderr, verbose=True) as display:
            return await drive(runner, stream, display)
