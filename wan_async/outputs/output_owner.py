"""Which journal the clips of an output belong to, as files beside them say: `.wan_async/journal-id` names it.

A local folder whose journal is in it has no such file.
"""

from __future__ import annotations

from wan_async.errors import Unusable
from wan_async.output_locations import OWNER, Owner

USED = ".wan_async/used"
"""The file that stays where `OWNER` is removed, since its journal was lost."""
RESULTS = "results.jsonl"


def refuse_other(content: bytes, owner: Owner, place: object) -> None:
    """Checks that clips belong to a journal.

    Args:
        content: that of `OWNER`.
        owner: the journal.
        place: where the clips are.

    Raises:
        Unusable: they belong to another.
    """
    found = Owner.loads(content)
    if found.journal == owner.journal:
        return
    flag = "--journal" if found.database is None else found.flag
    raise Unusable(
        f"the clips in {place} belong to another journal, which knows what was paid for them: use it ({flag}), or "
        f"another -o. If it is lost, remove {OWNER} there: this journal takes its place once it has looked for the "
        "tasks that were paid for"
    )
