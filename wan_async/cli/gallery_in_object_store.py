"""The review page in an object store: `gallery` puts it there, and a run at its end."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import anyio

from wan_async import errors
from wan_async.cli.display_text import sanitise
from wan_async.cli.remote_output import replace_text
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.gallery.verdicts import Verdicts
from wan_async.journal.base import Home
from wan_async.output_locations import OutputUrl

WITH_A_PAGE = (ExitCode.SUCCESS, ExitCode.FAILURES, ExitCode.FUNDS, ExitCode.UNRESOLVED)
"""Ends of a run after which the page is put; after the others nobody wants to wait, or the store can't be reached."""

log: logging.Logger = logging.getLogger(__name__)


def put_page(output: OutputUrl, home: Home, found: Verdicts) -> str:
    """Put the page into an object store; returns its URL.

    Raises:
        errors.WanError: there is no journal, it can't be read, or the store refuses.
    """
    from wan_async.gallery.page import NAME, html, read_journals  # a run loads it at its end
    from wan_async.gallery.source_images import Sources

    with ExitStack() as stack:
        reports = read_journals(stack, output, home)
        # threads can't read the journal
        page = list(html(reports, output.name, sources=Sources(None), verdicts=found))
    anyio.run(replace_text, output, home, NAME, page)
    return output / NAME


def put_at_end(output: OutputUrl, home: Home, end: events.Finished, *, quiet: bool) -> None:
    """Put the page of a run that has ended, and print where it is unless `quiet`; what goes wrong is a warning."""
    if ExitCode(end.exit_code) not in WITH_A_PAGE or not end.stored + end.skipped:
        return
    try:
        page = put_page(output, home, Verdicts())
    except errors.WanError as error:
        log.warning("the gallery could not be written: %s", error.message)
        return
    if not quiet:
        print(f"look at them in {sanitise(page)}")
