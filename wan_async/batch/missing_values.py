"""Texts that programs write where a table has no value: `#N/A` of a spreadsheet, `nan` of pandas."""

from __future__ import annotations

import re

from wan_async.domain.text import shown

LONGEST = 24
"""No such text has more characters."""
SHOWN = 20
"""Of how many the places are listed."""

_ERROR = re.compile(
    r"#(?:N/A(?: N/A)?|(?:REF|VALUE|DIV/0|NUM|NULL|SPILL|CALC|FIELD|BLOCKED|CONNECT|UNKNOWN|BUSY|ERROR|PYTHON)!|NAME\?"
    r"|GETTING_DATA|NV|(?:BEZUG|WERT|ZAHL|VALEUR|NOMBRE|VALOR|REF\.)!|NOM\?)|Err:[0-9]{3}|Loading\.\.\."
)
_WORDS = frozenset({"nan", "-nan", "none", "null", "nil", "n/a", "na", "<na>", "nat", "undefined", "(null)", "(none)"})


def fault_of_cell(text: str) -> str | None:
    """What is wrong with a text that a spreadsheet shows in place of a result, None if it is another."""
    if len(text) > LONGEST or not _ERROR.fullmatch(text.strip()):
        return None
    return f"{shown(text)} is what a spreadsheet shows for a formula without a result: write the text itself"


class MissingValues:
    """Collects the texts that may stand for a missing value, and are sent all the same."""

    def __init__(self) -> None:
        self._places: list[str] = []
        self._words: dict[str, None] = {}
        self._count = 0

    def may_be(self, text: str) -> bool:
        """Whether a text may stand for a missing value."""
        return len(text) <= LONGEST and text.strip().casefold() in _WORDS

    def note(self, text: str, where: str) -> None:
        """Adds such a text, and where it was written."""
        self._count += 1
        self._words[shown(text.strip())] = None
        if self._count <= SHOWN:
            self._places.append(f"{where}: {shown(text)} is sent as it is; if nothing is meant, leave it out")

    def notices(self) -> list[str]:
        """A warning for each of the first, and their count."""
        if not self._count:
            return []
        words = ", ".join(self._words)
        many = f"{self._count} texts are" if self._count > 1 else "1 text is"
        return [*self._places, f"{many} what programs write for a missing value ({words})"]
