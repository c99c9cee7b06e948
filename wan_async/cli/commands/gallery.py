"""`gallery`: make one HTML page of an output folder's clips."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch import output_check
from wan_async.cli.inputs import journal_home
from wan_async.cli.remote_output import replace_text
from wan_async.domain.exit_codes import ExitCode
from wan_async.locations import OutputUrl


def gallery(args: argparse.Namespace) -> ExitCode:
    """Write `OUT/gallery.html` and print where it is.

    Raises:
        errors.InvalidBatch: a file of that name exists that wan-async did not write.
        errors.Unusable: the journal can't be read, or the page not be written.
    """
    from wan_async.gallery.page import NAME, write

    home = journal_home(args, args.folder)
    if not isinstance(args.folder, Path):
        print(_store(args.folder, home))
        return ExitCode.SUCCESS
    page = args.folder / NAME
    if not output_check.is_our_gallery(page):
        raise errors.InvalidBatch([errors.Problem(str(page), "exists and is not ours: move it away, or delete it")])
    print(write(args.folder))
    return ExitCode.SUCCESS


def _store(output: OutputUrl, home: Path) -> str:
    """Put the page into an object store; returns its URL."""
    from wan_async.gallery.page import NAME, html, read_journals
    from wan_async.gallery.sources import Sources

    with ExitStack() as stack:
        page = list(
            html(read_journals(stack, output, home), output.name, sources=Sources(None))
        )  # threads can't read the journal
    anyio.run(replace_text, output, home, NAME, page)
    return output / NAME
