"""What helps jobs that failed: `--retry-failed`, and `--prepare` where the image may be why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wan_async.batch.image_inspection import is_often_refused, needs_copy
from wan_async.batch.images import facts_of
from wan_async.domain.text import shown

SHOWN_IMAGES = 3
LOOKED_AT = 10_000
"""How many other images are looked at to say how many of them `--prepare` converts, too."""


@dataclass(frozen=True, slots=True)
class RetryAdvice:
    """How to try failed jobs again.

    Attributes:
        flags: the flags of the run that does it.
        remarks: what else there is to know of them, a line each.
    """

    flags: str
    remarks: tuple[str, ...] = ()


def retry_advice(failed: Iterable[str], images: Iterable[str]) -> RetryAdvice:
    """The flags that try failed jobs again. Blocks: headers of images are read.

    Args:
        failed: the local images of the jobs that failed.
        images: those of all jobs.
    """
    odd = [path for path in dict.fromkeys(failed) if has_odd_kind(path)]
    if not odd:
        return RetryAdvice("--retry-failed")
    more = f" and {len(odd) - SHOWN_IMAGES} more" if len(odd) > SHOWN_IMAGES else ""
    names = ", ".join(shown(path, whole=True) for path in odd[:SHOWN_IMAGES])
    them = "is of a kind" if len(odd) == 1 else "are of kinds"
    remarks = [f"{names}{more} {them} that not every renderer reads: --prepare uploads a converted copy"]
    if others := _converted(path for path in dict.fromkeys(images) if path not in odd):
        what = "1 other image" if others == 1 else f"{others:,} other images"
        remarks.append(f"--prepare converts {what}, too: their clips are rendered again, and paid for again (see plan)")
    return RetryAdvice("--retry-failed --prepare", tuple(remarks))


def has_odd_kind(path: str) -> bool:
    """Whether a local image is of a kind that not every renderer reads. Blocks: its header is read."""
    return (facts := facts_of(path)) is not None and is_often_refused(facts)


def _converted(paths: Iterable[str]) -> int:
    looked: Sequence[str] = [path for path, _ in zip(paths, range(LOOKED_AT), strict=False)]
    return sum((facts := facts_of(path)) is not None and needs_copy(facts) for path in looked)
