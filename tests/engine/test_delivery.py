"""Delivery, from the ended task to the clip on disk: order of the steps, disk and server errors, existing files."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from io import FileIO
from pathlib import Path

import anyio
import httpx
import pytest
from harness import Send, World, intercepting, make_sandbox, text_jobs
from sampling import sampled_product

from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine.delivery import MAX_FAULTS, MAX_FAULTS_STOPPING
from wan_async.engine.run import Run
from wan_async.filesystem import Files
from wan_async.sandbox import transport


class Disk(Files):
    """Records the file operations, and raises in those that a test chooses."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.errors: dict[str, int] = {}

    def _note(self, what: str, path: Path) -> None:
        name = path.name.split(".")[-1] if path.suffix in (".part", ".tmp") else path.name
        self.order.append(f"{what} {name}")
        code = self.errors.get(f"{what} {name}")
        if code is not None:
            raise OSError(code, os.strerror(code))

    def open(self, path: Path) -> FileIO:
        self._note("open", path)
        return super().open(path)

    def write(self, file: FileIO, data: bytes) -> None:
        self._note("write", Path(f"/proc/self/fd/{file.fileno()}").readlink())
        super().write(file, data)

    def fsync(self, file: FileIO) -> None:
        self._note("fsync", Path(f"/proc/self/fd/{file.fileno()}").readlink())
        super().fsync(file)

    def link(self, source: Path, target: Path) -> None:
        self._note("link", target)
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename", target)
        super().rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._note("replace", target)
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._note("unlink", path)
        super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        self._note("fsync_folder", folder)
        super().fsync_folder(folder)


@pytest.mark.virtual_time
async def test_the_clip_is_durable_before_it_is_published_and_the_sidecar_before_the_row_is_stored(
    tmp_path: Path,
) -> None:
    disk = Disk()
    world = World(tmp_path, make_sandbox(), files=disk)
    await world.run(text_jobs(1))
    order = [step for step in disk.order if "results" not in step]
    assert order.index("write part") < order.index("fsync part") < order.index("link job-0.mp4")
    assert order.index("link job-0.mp4") < order.index("fsync_folder out")
    assert order.index("fsync_folder out") < order.index("write tmp") < order.index("fsync tmp")
    assert order.index("fsync tmp") < order.index("replace job-0.json")


STEPS = ["open part", "write part", "fsync part", "link job-0.mp4", "write tmp", "fsync tmp", "replace job-0.json"]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("step", "code"), sampled_product(2, STEPS, [errno.ENOSPC, errno.EIO, errno.EROFS]))
async def test_a_disk_error_stops_the_run_and_loses_no_clip(tmp_path: Path, step: str, code: int) -> None:
    disk = Disk()
    world = World(tmp_path, make_sandbox(), files=disk)
    disk.errors[step] = code
    finished = await world.run(text_jobs(3), concurrency=1, resume="again")
    assert finished.exit_code == 6
    (stopping,) = world.events_of(events.Stopping)
    assert "run the same command again" in stopping.reason
    assert ("full" in stopping.reason) == (code == errno.ENOSPC)
    disk.errors.clear()
    finished = await world.run(text_jobs(3))
    assert finished.exit_code == 0
    assert len(world.clips) == world.tasks == 3
    assert world.leftovers == []


class Lacking(Files):
    """Has too few descriptors to replace a file, as often as a test says."""

    def __init__(self, name: str, times: int) -> None:
        self.name, self.times = name, times

    def replace(self, source: Path, target: Path) -> None:
        if target.name == self.name and self.times > 0:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        super().replace(source, target)


@pytest.mark.virtual_time
async def test_a_passing_lack_of_descriptors_delays_a_sidecar(tmp_path: Path) -> None:
    files = Lacking("job-0.json", 3)
    world = World(tmp_path, make_sandbox(), files=files)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks, files.times) == (0, 1, 1, 0)
    assert json.loads((world.output / "job-0.json").read_text())["file"] == "job-0.mp4"


@pytest.mark.virtual_time
async def test_a_lasting_lack_of_descriptors_leaves_a_clip_for_the_next_run(tmp_path: Path) -> None:
    files = Lacking("job-0.json", 10_000)
    world = World(tmp_path, make_sandbox(), files=files)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (1, 0, 1)
    files.times = 0
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_results_that_cannot_be_written_now_are_a_fault_of_the_environment(tmp_path: Path) -> None:
    files = Lacking("results.jsonl", 10_000)
    world = World(tmp_path, make_sandbox(), files=files)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, len(world.clips), world.tasks) == (6, 1, 1)
    files.times = 0
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, world.tasks, (world.output / "results.jsonl").exists()) == (0, 1, True)


@pytest.mark.virtual_time
async def test_a_full_disk_while_results_are_written_is_reported_and_loses_no_clip(tmp_path: Path) -> None:
    disk = Disk()
    world = World(tmp_path, make_sandbox(), files=disk)
    disk.errors["replace results.jsonl"] = errno.ENOSPC
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 6
    assert len(world.clips) == 1


@pytest.mark.virtual_time
async def test_an_existing_file_is_not_overwritten_and_its_job_fails_before_it_is_submitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.output.mkdir()
    (world.output / "JOB-0.mp4").write_text("mine")
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert failed.kind == "target"
    (world.output / "JOB-0.mp4").unlink()
    assert (await world.run(text_jobs(2))).exit_code == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("kept", [True, False], ids=["whole part", "cut part"])
async def test_a_file_that_appears_after_the_hash_was_committed_is_not_overwritten(tmp_path: Path, kept: bool) -> None:
    class Broken(Files):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EIO, "Input/output error")

    world = World(tmp_path, make_sandbox(), files=Broken())
    assert (await world.run(text_jobs(1))).exit_code == 6
    (world.output / "job-0.mp4").write_text("mine")
    if not kept:  # as after a power failure: the end was not written
        os.truncate(world.leftovers[0], 100)
    world.files = Files()
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, world.tasks, world.leftovers) == (0, 1, [])
    assert (world.output / "job-0.mp4").read_text() == "mine"
    assert (world.output / "job-0.1.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.virtual_time
async def test_a_file_that_appears_during_the_download_is_not_overwritten(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if request.url.path.startswith("/cdn/"):
            (world.output / "job-0.mp4").write_text("mine")
        return await send(request)

    world.wrap = handle
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 0
    assert (world.output / "job-0.mp4").read_text() == "mine"
    assert (world.output / "job-0.1.mp4").read_bytes()[4:8] == b"ftyp"
    assert json.loads((world.output / "job-0.1.json").read_text())["file"] == "job-0.1.mp4"
    (stored,) = world.events_of(events.Stored)
    assert stored.file == "job-0.1.mp4"


@pytest.mark.virtual_time
async def test_without_hard_links_clips_are_renamed(tmp_path: Path) -> None:
    disk = Disk()
    world = World(tmp_path, make_sandbox(), files=disk)
    disk.errors = {"link cat.mp4": errno.EPERM, "link cat.1.mp4": errno.EPERM}
    await world.run([Job(id="cat", prompt="it yawns")])
    finished = await world.run([Job(id="cat", prompt="it purrs")])
    assert finished.exit_code == 0
    assert {clip.name for clip in world.clips} == {"cat.mp4", "cat.1.mp4"}


@pytest.mark.virtual_time
async def test_earlier_clips_of_a_job_are_kept_under_numbered_names(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    contents = []
    for prompt in ("one", "two", "three"):
        await world.run([Job(id="cat", prompt=prompt)])
        contents.append((world.output / "cat.mp4").read_bytes())
    assert (world.output / "cat.1.mp4").read_bytes() == contents[0]
    assert (world.output / "cat.2.mp4").read_bytes() == contents[1]
    back = await world.run([Job(id="cat", prompt="one")])
    assert (back.exit_code, back.skipped, world.tasks) == (0, 1, 3)


@pytest.mark.virtual_time
async def test_an_expired_url_is_renewed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(url_seconds=1.0, task_seconds=(1, 1)))
    await world.run_until(0.5, text_jobs(1))
    await world.run_until(1.5, text_jobs(1))
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
async def test_an_unavailable_clip_is_missing_and_only_rerender_renders_it_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1))
    (world.output / "job-0.mp4").unlink()
    (task,) = world.sandbox.account.tasks.values()
    task.deleted = True
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    (missing,) = world.events_of(events.Missing)
    assert missing.task_id == task.id
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    finished = await world.run(text_jobs(1), rerender=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1/clip.mp4", "download"),
        ("file:///etc/passwd", "download"),
        ("https://user:secret@example.com/clip.mp4", "download"),
        ("https://localhost/clip.mp4", "download"),
        ("not a url", "download"),
    ],
)
async def test_a_hostile_output_url_fails_its_own_job_only(tmp_path: Path, url: str, kind: str) -> None:
    world = World(tmp_path, make_sandbox())

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        response = await send(request)
        if not request.url.path.endswith("/Task/Detail"):
            return response
        content = json.loads(await response.aread())
        for task in content.get("tasklist", []):
            if task["parameters"]["prompt"] == "scene 0":
                for output in task["outputs"] or []:
                    output["url"] = url
                    output["name"] = "../../etc/evil"
        return httpx.Response(200, json=content)

    world.wrap = handle
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.stored) == (1, 1)
    (failed,) = world.events_of(events.Failed)
    assert (failed.kind, failed.job) == (kind, "job-0")
    assert "secret" not in failed.message
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    world.wrap = None
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, world.tasks) == (0, 2)


@pytest.mark.virtual_time
async def test_a_download_that_is_not_a_clip_is_rejected_and_retried_by_the_next_run(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(clip=lambda order: b"<html>no clip</html>"))
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished, world.tasks) == (1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert failed.kind == "content"
    assert failed.billed_usd is not None
    assert world.clips == world.leftovers == []


@pytest.mark.virtual_time
async def test_a_wrong_announced_size_is_logged_and_accepted_if_two_downloads_are_equal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, make_sandbox(faults={"bad_size": 1.0}))
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 0
    assert "were announced" in caplog.text


@pytest.mark.virtual_time
async def test_a_download_that_is_interrupted_repeatedly_is_resumed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(clip_bytes=3_000_000))
    world.sandbox.faults.next("cut_download", times=6)
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 0
    assert len(world.events_of(events.Retrying)) == 6
    assert world.clips[0].stat().st_size == 3_000_000


@pytest.mark.virtual_time
async def test_a_clip_whose_every_download_fails_is_left_for_the_next_run(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if request.url.path.startswith("/cdn/"):
            return httpx.Response(503)
        return await send(request)

    world.wrap = handle
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished) == (1, 1)
    assert world.events_of(events.Failed)[0].kind == "download"
    world.wrap = None
    assert (await world.run(text_jobs(1))).exit_code == 0
    assert world.tasks == 1


def prompts_of(world: World) -> dict[str, str]:
    """The prompt of each clip, from its sidecar."""
    return {
        path.stem: json.loads(path.with_suffix(".json").read_text())["parameters"]["prompt"] for path in world.clips
    }


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "disk_errors",
    [
        {"link cat.2.mp4": errno.EEXIST},
        {"link cat.2.mp4": errno.EPERM, "rename cat.2.mp4": errno.EROFS},
        {"replace cat.2.json": errno.EIO},
        {"unlink cat.mp4": errno.EACCES},
    ],
)
async def test_an_earlier_clip_and_its_sidecar_are_kept_if_numbering_them_is_interrupted(
    tmp_path: Path, disk_errors: dict[str, int]
) -> None:
    disk = Disk()
    world = World(tmp_path, make_sandbox(), files=disk)
    contents = {}
    for number, prompt in ((1, "one"), (2, "two")):
        await world.run([Job(id="cat", prompt=prompt)])
        contents[f"cat.{number}"] = (world.output / "cat.mp4").read_bytes()
    disk.errors = disk_errors
    finished = await world.run([Job(id="cat", prompt="three")])
    assert finished.exit_code == 6
    (stopping,) = world.events_of(events.Stopping)
    assert "fix that and run the same command again" in stopping.reason
    disk.errors = {}
    finished = await world.run([Job(id="cat", prompt="three")])
    assert (finished.exit_code, world.tasks, world.leftovers) == (0, 3, [])
    assert prompts_of(world) == {"cat.1": "one", "cat.2": "two", "cat": "three"}
    for name, content in contents.items():
        assert (world.output / f"{name}.mp4").read_bytes() == content


@pytest.mark.virtual_time
async def test_an_earlier_clip_without_a_sidecar_gets_a_numbered_name(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="one")])
    (world.output / "cat.json").unlink()
    finished = await world.run([Job(id="cat", prompt="two")])
    assert finished.exit_code == 0
    assert {path.name for path in world.output.glob("cat*")} == {"cat.mp4", "cat.json", "cat.1.mp4"}


@pytest.mark.virtual_time
async def test_a_damaged_clip_is_kept_and_downloaded_again_under_a_numbered_name(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1))
    whole = (world.output / "job-0.mp4").read_bytes()
    (world.output / "job-0.mp4").write_bytes(whole[:10])
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert (world.output / "job-0.mp4").read_bytes() == whole[:10]
    assert (world.output / "job-0.1.mp4").read_bytes() == whole
    assert (await world.run(text_jobs(1))).skipped == 1


@pytest.mark.virtual_time
async def test_a_dangling_link_in_place_of_a_clip_is_not_replaced(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    for prompt in ("one", "two"):
        await world.run([Job(id="cat", prompt=prompt)])
    (world.output / "cat.mp4").unlink()
    (world.output / "cat.mp4").symlink_to("nowhere")
    finished = await world.run([Job(id="cat", prompt="three")])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 3)
    assert {clip.name for clip in world.clips if clip.exists()} == {"cat.mp4", "cat.1.mp4"}
    assert [clip.readlink() for clip in world.clips if clip.is_symlink()] == [Path("nowhere")]


class Answering(httpx.AsyncBaseTransport):
    """A transport that passes on the requests that `answer` does not answer."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, answer: Callable[[httpx.Request], Awaitable[httpx.Response | None]]
    ) -> None:
        self.inner, self.answer = inner, answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.answer(request) or await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
async def test_known_urls_are_retried_after_the_service_has_forgotten_the_task(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    refused = 0

    async def answer(request: httpx.Request) -> httpx.Response | None:
        nonlocal refused
        if request.url.path.startswith("/cdn/") and refused < 3:
            refused += 1
            return httpx.Response(403)
        forgotten = refused and request.url.path.endswith("/Task/Detail")
        errors = [{"code": 1, "message": "There is no task yet."}]
        return httpx.Response(200, json={"result": False, "errors": errors}) if forgotten else None

    world.wrap = lambda inner: Answering(inner, answer)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, refused) == (0, 1, 3)


@pytest.mark.virtual_time
async def test_a_download_survives_a_network_outage_of_hours(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(url_seconds=1e6))
    down_until = math.inf

    async def answer(request: httpx.Request) -> httpx.Response | None:
        nonlocal down_until
        if down_until == math.inf and request.url.path.startswith("/cdn/"):
            down_until = anyio.current_time() + 7200
        if down_until - 7200 <= anyio.current_time() < down_until:
            raise httpx.ConnectError("no network", request=request)
        return None

    world.wrap = lambda inner: Answering(inner, answer)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert len(world.events_of(events.Retrying)) > MAX_FAULTS
    assert finished.seconds > 7200


@pytest.mark.virtual_time
async def test_a_clip_is_missing_when_its_second_output_is_no_longer_listed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    inner = transport(world.sandbox)
    gone = False

    async def answer(request: httpx.Request) -> httpx.Response | None:
        nonlocal gone
        if request.url.path.endswith("/further.mp4"):
            gone = True
            return httpx.Response(404)
        if not request.url.path.endswith("/Task/Detail") or gone:
            return None
        content = json.loads(await (await inner.handle_async_request(request)).aread())
        for task in content["tasklist"]:
            for output in (task["outputs"] or [])[:1]:
                task["outputs"].append(output | {"url": "https://cdn.example.com/further.mp4"})
        return httpx.Response(200, json=content)

    world.wrap = lambda inner: Answering(inner, answer)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    (missing,) = world.events_of(events.Missing)
    assert "does not show this output now" in missing.reason
    assert [clip.name for clip in world.clips] == ["job-0.mp4"]


class Cutting(httpx.AsyncBaseTransport):
    """A CDN that closes the connection at the same offset of every response, whatever the requested range."""

    def __init__(self, inner: httpx.AsyncBaseTransport, tries: list[float]) -> None:
        self.inner, self.tries = inner, tries

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/cdn/500001/" not in request.url.path:
            return await self.inner.handle_async_request(request)
        self.tries.append(anyio.current_time())
        return httpx.Response(200, headers={"content-length": "3000000"}, stream=Cut())


class Cut(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"\0\0\0\x10ftypisom" + b"x" * 1_000_000
        raise httpx.ReadError("connection reset")


@pytest.mark.virtual_time
async def test_a_download_without_progress_ends_after_twenty_tries_and_is_left_for_the_next_run(
    tmp_path: Path,
) -> None:
    world, tries = World(tmp_path, make_sandbox()), list[float]()
    world.wrap = lambda inner: Cutting(inner, tries)
    finished = await world.run(text_jobs(3), downloads=1)
    assert (finished.exit_code, finished.stored, finished.unfinished, world.tasks) == (1, 2, 1, 3)
    assert len(tries) <= 2 * MAX_FAULTS
    world.wrap = None
    finished = await world.run(text_jobs(3))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 3)


@pytest.mark.virtual_time
async def test_a_stop_ends_a_download_that_makes_no_progress(tmp_path: Path) -> None:
    world, tries = World(tmp_path, make_sandbox()), list[float]()
    world.wrap = lambda inner: Cutting(inner, tries)
    stopped: list[float] = []

    async def act(runner: Run) -> None:
        await anyio.sleep(10)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)
        stopped.append(anyio.current_time())

    finished = await world.run(text_jobs(1), act)
    assert (finished.exit_code, finished.unfinished) == (130, 1)
    assert anyio.current_time() - stopped[0] <= 60
    assert sum(at > stopped[0] for at in tries) <= 2 * MAX_FAULTS_STOPPING


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "url",
    ["http://xn--12-.0.0.1/x", "https://a\u200d.example/x", "https://cdn.example:99999/x", "https://[::1", "x" * 9000],
)
async def test_an_invalid_output_url_fails_its_own_job_only(tmp_path: Path, url: str) -> None:
    world = World(tmp_path, make_sandbox())
    inner = transport(world.sandbox)

    async def answer(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/Task/Detail"):
            return None
        content = json.loads(await (await inner.handle_async_request(request)).aread())
        for task in content.get("tasklist") or []:
            if task["parameters"]["prompt"] == "scene 1":
                task["outputs"] = [output | {"url": url} for output in task["outputs"] or []]
        return httpx.Response(200, json=content)

    world.wrap = lambda inner: Answering(inner, answer)
    for _ in range(2):
        finished = await world.run(text_jobs(4))
        assert (finished.exit_code, finished.stored + finished.skipped, world.tasks) == (1, 3, 4)
        assert finished.unfinished == 1
    world.wrap = None
    assert (await world.run(text_jobs(4))).exit_code == 0
    assert world.tasks == 4
