"""A process is killed by SIGKILL at each step, and the batch run again: nothing is paid twice, no clip is lost."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from kills import Killables, Matrix
from servers import sandbox_server

from wan_async.domain.model import WAN


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.parametrize(
    ("upload", "track", "steps", "every", "cases"),
    [
        ("file", "socket", ("",), 12, 5),
        ("inline", "poll", ("Run", "Task/", "accepted", "ended"), 12, 2),
        pytest.param("file", "socket", ("",), 1, 60, marks=pytest.mark.slow),
        pytest.param("inline", "poll", ("Run", "Task/", "accepted", "ended"), 1, 15, marks=pytest.mark.slow),
    ],
)  # inline images don't change the steps on disk; `nox -s chaos` covers all steps of every combination
def test_a_kill_at_any_step_loses_no_clip_and_pays_nothing_twice(
    tmp_path: Path, upload: str, track: str, steps: tuple[str, ...], every: int, cases: int
) -> None:
    with (
        sandbox_server("--seconds", "0.05,0.1", "--limit", "50", "--balance", "1000") as server,
        Killables.running() as killables,
    ):
        count, failures = Matrix(server, killables, tmp_path, upload, track, steps, every).failures()
        assert failures == []
        assert count >= cases
        assert server.report()["leaks"] == []


def test_an_incomplete_request_creates_no_task() -> None:
    """Regression: a Run whose client died while it sent the image was paid, and could not be reconciled."""
    body = b'{"prompt": "rain"} '  # also valid JSON without its last byte
    with sandbox_server("--key-only") as server:
        host, _, port = server.root.removeprefix("http://").partition(":")
        for sent in (body, body[:-1]):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                head = f"POST /v1/Run/{WAN.name} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {server.info['api_key']}\r\n"
                connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        assert len(server.report()["tasks"]) == 1
