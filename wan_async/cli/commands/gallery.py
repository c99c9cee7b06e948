"""`gallery`."""

from __future__ import annotations

import argparse

from wan_async import errors
from wan_async.batch import output_check


def gallery(args: argparse.Namespace) -> int:
    """`gallery`: one HTML page of all clips."""
    from wan_async.gallery.page import NAME, write

    page = args.folder / NAME
    if not output_check.is_our_gallery(page):
        raise errors.InvalidBatch([errors.Problem(str(page), "exists and is not ours: move it")])
    print(write(args.folder))
    return 0
