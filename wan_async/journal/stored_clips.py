"""The stored clips of a journal with what they were made from: enough to find, copy and render them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wan_async.domain.validation import is_url
from wan_async.errors import Unusable
from wan_async.journal.base import FILE, Home
from wan_async.journal.image_paths import image_path
from wan_async.journal.read_only import reading
from wan_async.journal.reports import read_all

_CLIPS = """
SELECT c.sha256, c.file, c.bytes, (SELECT f.file FROM clips f WHERE f.attempt = a.id ORDER BY f.number LIMIT 1),
       a.job, coalesce(json_extract(j.spec, '$.label'), a.job), a.form, a.image,
       CASE WHEN j.content = a.content THEN json_extract(j.spec, '$.image_file') END,
       CASE WHEN j.content = a.content THEN json_extract(j.spec, '$.image') END
FROM clips c JOIN attempts a ON a.id = c.attempt LEFT JOIN jobs j ON j.key = a.job
WHERE a.state = 'stored' AND c.file != '' AND c.sha256 IS NOT NULL
ORDER BY j.position IS NULL, j.position, (j.content = a.content) IS NOT TRUE, a.id, c.number
"""


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip of a journal.

    Attributes:
        sha256: its hash, 64 hex digits.
        file: its path in the output folder.
        bytes: its size; None if unknown.
        first_file: the first file of the same attempt, which has the sidecar.
        job: the key of its job.
        label: the value of `{id}`.
        form: the parameters as sent, by the service's names.
        image: the identity of its image: `sha256:...`, `url:...`, or empty.
        image_files: absolute paths where that image may be, the most likely first.
    """

    sha256: str
    file: str
    bytes: int | None
    first_file: str
    job: str
    label: str
    form: Mapping[str, str]
    image: str
    image_files: tuple[str, ...]


def stored_clips(output: Path, journal: Home | None = None) -> list[StoredClip]:
    """The clips of all journals of an output folder, in batch order.

    Earlier takes follow the clip of their job; those of jobs that the batch no longer names are last.

    Args:
        output: the folder.
        journal: where its journal is kept, if that was named.

    Raises:
        Unusable: there is no journal, or one can't be read.
    """
    found = read_all(output, lambda home: _clips_of(home, output), journal)
    return [clip for _, clips in found for clip in clips]


def _clips_of(home: Home, output: Path) -> list[StoredClip] | None:
    """The clips of one journal; None if there is none."""
    with reading(home) as db:
        if db is None:
            return None
        rows = db.execute(_CLIPS).fetchall()
        hashed: dict[str, list[str]] = {}
        for image, sha256 in db.execute("SELECT path, sha256 FROM images"):
            hashed.setdefault(f"sha256:{sha256}", []).append(str(Path(image).absolute()))
    found = []
    for sha256, file, size, first_file, job, label, form, image, image_file, given in rows:
        try:
            sent = json.loads(form)
        except ValueError:
            path = home / FILE if isinstance(home, Path) else home
            raise Unusable(f"the journal {path} is damaged: the clip {file} of job {job} can't be read") from None
        places = [image_path(output, image_file)] if image_file else []
        places += [str(Path(given).absolute())] if given and not is_url(given) else []
        image_files = tuple(dict.fromkeys([*places, *hashed.get(image, ())]))
        found.append(StoredClip(sha256, file, size, first_file, job, str(label), sent, image, image_files))
    return found
