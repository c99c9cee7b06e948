"""Runs whose clips go to an object store, again and again: does every process end cleanly?

    python tests/chaos/store_exits.py [RUNS]

Each run is a process of its own that renders two clips with a sandbox and stores them in moto's S3.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1] / "support"))

from object_stores import environment, keys, new_bucket
from servers import command_line, sandbox_server, write_batch

JOBS = 2


def main(runs: int) -> int:
    """Run them; print how many ended how; 1 if any did not end with 0 and all clips in the store."""
    ended: Counter[str] = Counter()
    bucket = new_bucket()
    with TemporaryDirectory() as folder, sandbox_server() as server:
        env = server.env | environment() | {"XDG_STATE_HOME": folder, "HOME": folder}
        batch = write_batch(Path(folder), [{"id": f"job-{n}", "prompt": f"scene {n}"} for n in range(JOBS)])
        for number in range(runs):
            done = command_line("run", batch, "-o", f"s3://{bucket}/{number}", "-q", env=env)
            ended[f"exit code {done.returncode}{', with messages' if done.stderr else ''}"] += 1
            if done.returncode or done.stderr:
                print(done.stdout, done.stderr)
    clips = sum(key.endswith(".mp4") for key in keys(bucket))
    print(f"{runs} runs: {dict(ended)}; {clips} clips in the store")
    return int(ended != Counter({"exit code 0": runs}) or clips != runs * JOBS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
