"""Names of clips: reserved before anything is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from clients import leftovers, virtual_client, virtual_sandbox

from wan_async import Job, Unusable, WanClient
from wan_async.sandbox import Sandbox

JOB = Job(prompt="rain")


async def together(client: WanClient, count: int, to: Any) -> tuple[list[Path], list[Exception]]:
    """The same call, many times at once."""
    paths: list[Path] = []
    raised: list[Exception] = []

    async def one() -> None:
        try:
            paths.append((await client.generate(JOB, to)).path)
        except Exception as error:  # noqa: BLE001 - each caller asserts which kinds it gets
            raised.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return paths, raised


@pytest.mark.virtual_loops
@pytest.mark.parametrize("to", [None, "clips/", "existing"])
async def test_ten_calls_at_once_without_a_name_get_ten_clips(
    to: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "existing").mkdir()
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        paths, raised = await together(client, 10, to)
    assert raised == []
    assert len({path.resolve() for path in paths}) == len(sandbox.account.tasks) == 10
    assert all(path.stat().st_size for path in paths)
    assert leftovers(tmp_path / (to or "")) == []


@pytest.mark.anyio
async def test_names_are_reserved_once_in_threads_too(tmp_path: Path) -> None:
    from clients import client_of, quick_sandbox

    sandbox = quick_sandbox()
    async with client_of(sandbox) as client:
        paths, raised = await together(client, 15, tmp_path)
        assert raised == []
        named, refused = await together(client, 10, tmp_path / "one.mp4")
    assert len(set(paths)) == 15
    assert (len(named), {type(error) for error in refused}) == (1, {FileExistsError})
    assert len(sandbox.account.tasks) == 16


@pytest.mark.virtual_loops
async def test_two_calls_with_one_target_pay_for_one(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        paths, raised = await together(client, 2, tmp_path / "A.mp4")
        assert len(paths) == 1
        assert [type(error) for error in raised] == [FileExistsError]
        _, raised = await together(client, 1, tmp_path / "A.mp4")
        assert [type(error) for error in raised] == [FileExistsError]
    assert sandbox.requests["Run"] == 1


async def refused(sandbox: Sandbox, to: Path, error: type[Exception]) -> None:
    async with virtual_client(sandbox) as client:
        with pytest.raises(error):
            await client.generate(JOB, to)
    assert sum(sandbox.requests.values()) == 0


@pytest.mark.virtual_loops
async def test_a_target_that_can_not_be_written_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for to in ("nowhere/a.mp4", "file/a.mp4", "file/sub/"):
        await refused(virtual_sandbox(), tmp_path / to, Unusable)
    await refused(virtual_sandbox(), Path(f"{tmp_path}/file/sub/x/"), Unusable)
    await refused(virtual_sandbox(), tmp_path / "file", FileExistsError)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.virtual_loops
async def test_a_folder_that_is_read_only_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)  # the suite may run as root, which may write anywhere
    await refused(virtual_sandbox(), tmp_path / "a.mp4", Unusable)


@pytest.mark.virtual_loops
async def test_a_name_is_free_again_after_its_call_failed(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    sandbox.refuse_runs(97, "Insufficient balance", times=1)
    paths: list[Path] = []
    async with virtual_client(sandbox) as client:
        for _ in range(2):
            paths, _ = await together(client, 1, tmp_path / "a.mp4")
    assert paths == [tmp_path / "a.mp4"]
    assert leftovers(tmp_path) == []


@pytest.mark.virtual_loops
@pytest.mark.parametrize("name", ["🌧" * 60, "雨" * 80, "a" * 240, 'a b\'s "c"'])
async def test_long_and_odd_names_are_kept(name: str, tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox()) as client:
        clip = await client.generate(JOB, tmp_path / f"{name}.mp4")
    assert clip.path.name == f"{name}.mp4"


@pytest.mark.virtual_loops
async def test_a_file_that_appears_while_the_task_runs_is_not_overwritten(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox()) as client:

        def write(task: object) -> None:
            (tmp_path / "a.mp4").write_text("mine")

        clip = await client.generate(JOB, tmp_path / "a.mp4", on_submitted=write)
    assert (tmp_path / "a.mp4").read_text() == "mine"
    assert clip.path.name != "a.mp4"
    assert clip.path.exists()


@pytest.mark.virtual_loops
async def test_a_job_names_its_clip_in_a_folder(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox()) as client:
        job = Job(prompt="rain", id="my/clip", image="https://example.com/cat.png")
        assert (await client.generate(job, tmp_path)).path.parent == tmp_path
        job = Job(prompt="rain", image="https://example.com/cat.png")
        assert (await client.generate(job, tmp_path)).path.name == "cat.mp4"
        task = await client.submit(job)
        assert (await client.wait(task, tmp_path)).path.name == "cat-2.mp4"


@pytest.mark.virtual_loops
async def test_bytes_and_chunks_are_the_whole_clip(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox(clip_bytes=5000)) as client:
        task = await client.submit(JOB)
        clip = await client.wait(task, tmp_path / "a.mp4")
        data = await client.read(task)
        async with client.stream(task, chunk_bytes=999) as chunks:
            streamed = [chunk async for chunk in chunks]
    assert data == b"".join(streamed) == clip.path.read_bytes()
    assert {len(chunk) for chunk in streamed[:-1]} == {999}


@pytest.mark.virtual_loops
@pytest.mark.parametrize("to", ["s3://bucket/", "s3://bucket/a.mp4", "https://key:secret@example.com/a.mp4"])
async def test_a_url_is_no_target_and_nothing_is_paid(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        with pytest.raises(Unusable) as caught:
            await client.generate(JOB, to)
    assert "secret" not in str(caught.value)
    assert (list(tmp_path.iterdir()), len(sandbox.account.tasks)) == ([], 0)
