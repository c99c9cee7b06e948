"""No key, secret, signature or task token is written anywhere but to the journal, at any log level."""

from __future__ import annotations

import re
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from servers import in_process, sandbox_server, write_batch

from wan_async.sandbox.faults import TRANSIENT

IMAGE = Path(__file__).parents[2] / "batches" / "images" / "cat.jpg"
FAULTS = [flag for name in TRANSIENT if name != "slow_answer" for flag in ("--fault", f"{name}=0.05")]
SHORT = [flag for name in ("task-error", "late-outputs", "late-cdn", "denied") for flag in (f"--{name}-seconds", "0.3")]
SECRET = "a-secret-of-the-project"


def test_a_run_with_many_faults_leaks_no_secret_to_files_or_output(tmp_path: Path) -> None:
    jobs = [{"id": f"job-{n}", "prompt": f"scene {n}", **({"image": str(IMAGE)} if n % 3 else {})} for n in range(12)]
    batch, output, log = write_batch(tmp_path, jobs), tmp_path / "out", tmp_path / "run.log"
    texts: dict[str, str] = {}
    with sandbox_server("--limit", "8", *FAULTS, *SHORT) as server:
        info = server.info
        for number, flags in enumerate((["--json"], ["--upload", "inline"], ["--json", "--track", "poll"])):
            done = in_process(
                "run", batch, "-o", output, "-vv", "--log-file", log, "--settle", "0.5", "--retries", "9",
                "--limit", f"{4 * (number + 1)}", "--retry-failed", *flags, env=server.env,
            )  # fmt: skip
            assert done.returncode in (0, 1, 5), done.stderr
            texts |= {f"stdout {number}": done.stdout, f"stderr {number}": done.stderr}
        # refused credentials must not be printed either
        wrong = in_process(
            "run", batch, "-o", tmp_path / "other", "-vv", "--log-file", log,
            env=server.env | {"WIRO_API_SECRET": SECRET},
        )  # fmt: skip
        assert wrong.returncode == 4
        gallery = in_process("gallery", output)
        status = in_process("status", output, "--json")
        listed = in_process("task", "list", "--json", "--limit", "100", env=server.env)
        for name, run in (("wrong", wrong), ("gallery", gallery), ("status", status), ("list", listed)):
            texts |= {f"{name} stdout": run.stdout, f"{name} stderr": run.stderr}
    journal = output / ".wan_async" / "journal.sqlite3"
    if sys.platform != "win32":
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    with closing(sqlite3.connect(journal)) as db:
        tokens = [token for (token,) in db.execute("SELECT token FROM attempts WHERE token IS NOT NULL")]
    assert len(tokens) >= 12
    texts |= {
        str(path): path.read_text("utf-8", "replace") for path in files_of(output) if path.parent != journal.parent
    }
    texts["log"] = log.read_text()
    assert "Run" in texts["log"]
    assert (output / "gallery.html").is_file()

    secrets = [info["api_key"], info["api_secret"], SECRET, *tokens]
    known = {sha256(path.read_bytes()).hexdigest() for path in (*output.glob("*.mp4"), IMAGE)}
    known |= {task_hash for text in texts.values() for task_hash in re.findall(r'"run": "(\w+)"', text)}
    for name, text in texts.items():
        for secret in secrets:
            assert secret not in text, name
        # a signature is 64 hex digits, and so are the hashes of clips and images: no others are allowed
        assert set(re.findall(r"\b[0-9a-f]{64}\b", text)) <= known, name


def files_of(folder: Path) -> Iterator[Path]:
    """All files in a folder except the clips, which are binary."""
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4")
