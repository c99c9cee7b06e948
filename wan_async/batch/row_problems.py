"""Problems of one job of a batch, or of what is around the jobs, each at the place of its value or key."""

from __future__ import annotations

from wan_async.batch.syntax import Path, Report, Row, Spot, Syntax


class RowProblems:
    """Reports the problems of one job, or of the envelope, at their places.

    Args:
        report: takes them.
        document: knows the places.
        row: the job or the envelope.
        prefix: where it is in the document.
        of_row: whether it is a job, without which the rest makes a batch.

    Attributes:
        is_sound: whether nothing keeps the job from being planned.
    """

    __slots__ = ("_document", "_of_row", "_prefix", "_report", "_row", "is_sound")

    def __init__(self, report: Report, document: Syntax, row: Row, prefix: Path, *, of_row: bool = False) -> None:
        self.is_sound: bool = True
        self._of_row = of_row
        self._report = report
        self._document = document
        self._row = row
        self._prefix = prefix

    def add(self, path: Path, message: str) -> None:
        """Something is wrong with the value at `path`."""
        self.is_sound = False
        self.mention(path, message)

    def add_key(self, path: Path, message: str) -> None:
        """Something is wrong with the last key of `path`."""
        self.is_sound = False
        self._report_at(self._document.key_spot(self._row, path), path, message)

    def mention(self, path: Path, message: str) -> None:
        """As `add`, for what keeps the job from being rendered, not from being planned."""
        self._report_at(self._document.spot(self._row, path), path, message)

    def where(self, path: Path) -> str:
        """The place of the value at `path`, and what it is."""
        place = path_text((*self._prefix, *path))
        spot = self._row.where or self._report.where(self._document.spot(self._row, path))
        return f"{spot}: {place}" if place else spot

    def _report_at(self, spot: Spot, path: Path, message: str) -> None:
        place = path_text((*self._prefix, *path))
        message = f"{place}: {message}" if place else message
        self._report.add(spot, message, self._row.where, of_row=self._of_row)


def path_text(path: Path) -> str:
    """A path as messages show it: `jobs[3].image`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
