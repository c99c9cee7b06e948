"""Commands on an output whose journal is in PostgreSQL: they work, or say that they don't."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import postgres_server
import pytest
from pictures import png
from servers import Server, command_line, in_process, sandbox_server, write_batch

from wan_async.domain.exit_codes import ExitCode


@pytest.fixture
def dsn() -> Iterator[str]:
    with postgres_server.database() as found:
        yield found


@pytest.fixture
def server() -> Iterator[Server]:
    with sandbox_server() as found:
        yield found


def test_the_gallery_of_workers_shows_their_clips_and_images(tmp_path: Path, dsn: str, server: Server) -> None:
    (tmp_path / "first.png").write_bytes(png())
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "rain", "image": "first.png"}])
    output = tmp_path / "out"
    done = in_process("enqueue", batch, "--journal", dsn, "-o", output, env=server.env)
    assert done.returncode == 0, done.stderr
    worked = command_line("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == 0, worked.stderr
    made = in_process("gallery", output, "--journal", dsn)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"{output / 'gallery.html'}\n"
    page = (output / "gallery.html").read_text()
    assert "a.mp4" in page
    assert f".wan_async/inputs/{sha256(png()).hexdigest()}.png" in page
    packing = in_process("gallery", output, "--journal", dsn, "--portable", tmp_path / "x.zip")
    assert (packing.returncode, (tmp_path / "x.zip").exists()) == (ExitCode.INVALID, False)


@pytest.mark.parametrize(
    "words", [["plan", "BATCH", "-o", "OUT"], ["again", "a", "-o", "OUT"], ["assign", "1", "a", "-o", "OUT"],
              ["pick", "OUT"], ["task", "list", "--orphans", "OUT"], ["watch", "BATCH", "-o", "OUT"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_other_commands_refuse_a_journal_in_postgresql(tmp_path: Path, words: list[str]) -> None:
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "rain"}])
    places = {"BATCH": str(batch), "OUT": str(tmp_path / "out")}
    arguments = [places.get(word, word) for word in words]
    refused = in_process(*arguments, "--journal", "postgresql://127.0.0.1:1/db")
    assert refused.returncode == ExitCode.INVALID
    assert "--journal" in refused.stderr
    assert not (tmp_path / "out").exists()
