"""A notebook that uses the library, executed by Jupyter: each cell is a task of its own in the kernel's event loop."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from servers import sandbox_server

CELLS = """
from wan_async import Closed, Job, WanClient, generate_sync, open_batch
client = WanClient()
# %%
clip = await client.generate(Job(prompt="rain"), to="rain.mp4")
print(clip.path, clip.cost_micros)
# %%
task = await client.submit(Job(prompt="snow"))
# %%
async with client.track(task) as events:
    print([type(event).__name__ async for event in events][-1])
# %%
print(len(await client.read(task)) > 0)
# %%
print(generate_sync(Job(prompt="fog"), to="fog.mp4").path)
# %%
import asyncio
waiting = asyncio.create_task(client.generate(Job(prompt="hail"), to="hail.mp4"))
# %%
async with open_batch([Job(id="dew", prompt="dew")], output="clips", client=client) as batch:
    kinds = [type(event).__name__ async for event in batch]
print(kinds[-1], [result.file.name for result in batch.result.stored])
# %%
print((await waiting).path)
# %%
late = await client.submit(Job(prompt="wind"))
waiting = asyncio.create_task(client.wait(late, to="wind.mp4"))
# %%
await client.aclose()
# %%
try:
    await waiting
except Closed as closed:
    print(closed.task == late)
# %%
async with WanClient() as again:
    print((await again.wait(late, to="wind.mp4")).path)
"""
PRINTED = ["rain.mp4 50000", "Ended", "True", "fog.mp4", "Finished ['dew.mp4']", "hail.mp4", "True", "wind.mp4"]


def test_a_notebook_makes_clips_in_cells_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = nbformat.v4
    cells = [make.new_code_cell(cell.strip()) for cell in CELLS.split("# %%")]  # type: ignore[no-untyped-call] # nbformat annotates no maker of cells
    notebook = make.new_notebook(cells=cells)  # type: ignore[no-untyped-call] # nor of notebooks
    with sandbox_server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        # the kernel finds the package where this process found it, installed or not
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # without it, older versions of Jupyter warn
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=60, kernel_name="python3", resources=resources).execute()
        texts = ["".join(output.get("text", "") for output in cell.outputs).strip() for cell in notebook.cells]
        assert [text for text in texts if text] == PRINTED
        assert server.paid == len(server.report()["tasks"]) == 6
