"""What other journals beside one own: those of single clips in a folder, of other outputs in a database."""

from __future__ import annotations

import logging

from wan_async.errors import Unusable
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.journal_location import homes_of
from wan_async.journal.reports import owned_tasks
from wan_async.output_locations import Location

log: logging.Logger = logging.getLogger(__name__)


def owned_by_other_journals(home: Home, output: Location) -> set[str]:
    """Ids and tokens of the tasks that the other journals beside one own. Blocking.

    They are restored and copied together with it, so that what they own is nothing that it has lost. That is not so of
    a journal in a place of its own (`--journal PATH`), which may be a copy of that in the output. A journal that can't
    be read owns nothing here.

    Args:
        home: where the journal is kept.
        output: where its clips go.
    """
    names = set[str]()
    for other in _beside(home, output):
        try:
            known = owned_tasks(other)
        except Unusable as error:
            log.warning("what another journal owns is not known: %s", error)
        else:
            names |= known.names if known is not None else set()
    return names


def _beside(home: Home, output: Location) -> list[Home]:
    if isinstance(home, DatabaseHome):
        from wan_async.journal.postgres_reading import outputs_in  # its driver is in an extra

        return [DatabaseHome(home.dsn, other) for other in outputs_in(home.dsn) if other != home.output]
    together = homes_of(output)
    return [other for other in together if other != home] if home in together else []
