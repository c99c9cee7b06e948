"""What a run would do with a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wan_async import errors
from wan_async.batch.images import Digest, digests, image_problems, local_images
from wan_async.domain.batch import Batch, Enlisted, enlist
from wan_async.journal.reports import Report, report


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch whose jobs have their identity.

    Attributes:
        jobs: all of them, in batch order.
        hashed: images that had to be read for it, by path; a run keeps them for the next time.
        known: how the folder's journal stands, None if there is none.
    """

    jobs: list[Enlisted]
    hashed: Mapping[str, Digest] = field(default_factory=dict)
    known: Report | None = None


def prepare(batch: Batch, home: Path) -> Prepared:
    """Gives each job of a batch its identity. Blocks: local images are read, unless they haven't changed since.

    Raises:
        errors.InvalidBatch: images that are missing, empty, too large or no images: all of them.
        errors.Unusable: the journal in `home` can't be read.
    """
    known = report(home)
    images = known.images if known is not None else {}
    read = digests(local_images(batch), {path: Digest(sha, size, mtime) for path, (size, mtime, sha) in images.items()})
    if problems := image_problems(batch, read.faults):
        raise errors.InvalidBatch(problems)
    return Prepared(enlist(batch, {path: digest.sha256 for path, digest in read.found.items()}), read.new, known)
