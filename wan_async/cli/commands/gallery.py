"""`gallery`: make one HTML page of an output folder's clips."""

from __future__ import annotations

import argparse

from wan_async import errors
from wan_async.batch import output_check
from wan_async.domain.exit_codes import ExitCode


def gallery(args: argparse.Namespace) -> ExitCode:
    """Write `OUT/gallery.html` and print its path.

    Raises:
        errors.InvalidBatch: a file of that name exists that wan-async did not write.
        errors.Unusable: the journal can't be read, or the page not be written.
    """
    from wan_async.gallery.page import NAME, write

    page = args.folder / NAME
    if not output_check.is_our_gallery(page):
        raise errors.InvalidBatch([errors.Problem(str(page), "exists and is not ours: move it away, or delete it")])
    print(write(args.folder))
    return ExitCode.SUCCESS
