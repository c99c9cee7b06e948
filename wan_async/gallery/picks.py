"""The clips that a review chose, as they are in the output folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wan_async.gallery.verdicts import Verdict, Verdicts
from wan_async.journal.stored_clips import StoredClip


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen clip that is in the output folder, and what was decided about it."""

    clip: StoredClip
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Gone:
    """A chosen clip that is not in the output folder.

    Attributes:
        sha256: its hash.
        verdict: what was decided about it.
        file: the path of its file, if the journal knows the clip; else empty.
    """

    sha256: str
    verdict: Verdict
    file: str = ""

    @property
    def name(self) -> str:
        """What to call it."""
        return self.file or self.verdict.file or f"the clip with sha256 {self.sha256}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen clips, in batch order, and those that are not there, in the order of the verdicts."""

    picks: list[Pick]
    gone: list[Gone]


def chosen(output: Path, clips: Iterable[StoredClip], verdicts: Verdicts, stars: int | None = None) -> Chosen:
    """Find the chosen clips. Blocks: their files are looked at.

    A clip that several jobs share is one: that by whose name it was judged, if there is one.

    Args:
        output: the output folder.
        clips: those of its journals.
        verdicts: what was decided.
        stars: take the clips that have at least as many stars and are not rejected, picked or not; None takes the
            picked ones.
    """
    wanted = {sha256: verdict for sha256, verdict in verdicts.clips.items() if _is_wanted(verdict, stars)}
    known: dict[str, StoredClip] = {}
    present: dict[str, StoredClip] = {}
    for clip in clips:
        if (verdict := wanted.get(clip.sha256)) is None:
            continue
        known.setdefault(clip.sha256, clip)
        if _is_whole(output, clip) and (clip.sha256 not in present or clip.file == verdict.file):
            present[clip.sha256] = clip
    order = {sha256: place for place, sha256 in enumerate(known)}
    picks = [Pick(present[sha256], wanted[sha256]) for sha256 in sorted(present, key=order.__getitem__)]
    return Chosen(picks, list(_gone(wanted.items(), known, present)))


def _gone(
    wanted: Iterable[tuple[str, Verdict]], known: dict[str, StoredClip], present: dict[str, StoredClip]
) -> Iterator[Gone]:
    for sha256, verdict in wanted:
        if sha256 not in present:
            yield Gone(sha256, verdict, known[sha256].file if sha256 in known else "")


def _is_wanted(verdict: Verdict, stars: int | None) -> bool:
    if stars is None:
        return verdict.verdict == "pick"
    return verdict.verdict != "reject" and (verdict.stars or 0) >= stars


def _is_whole(output: Path, clip: StoredClip) -> bool:
    try:
        return (output / clip.file).stat().st_size == clip.bytes
    except OSError:
        return False
