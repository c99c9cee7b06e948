"""`gallery`: make the review page of an output folder's clips, open it, or pack it with them."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from wan_async import errors
from wan_async.batch import output_check
from wan_async.cli.command_inputs import kept_in
from wan_async.cli.display_text import sanitise, size
from wan_async.cli.error_messages import SHOWN_PROBLEMS, say
from wan_async.cli.gallery_in_object_store import put_page
from wan_async.cli.retry_advice import has_odd_kind
from wan_async.cli.verdict_files import verdicts_for
from wan_async.domain.exit_codes import ExitCode
from wan_async.gallery import verdicts
from wan_async.gallery.verdicts import Verdicts
from wan_async.journal.base import DatabaseHome
from wan_async.journal.stored_clips import stored_clips


def gallery(args: argparse.Namespace) -> ExitCode:
    """Write `OUT/gallery.html` and print where it is; 1 if clips are missing from a zip.

    Raises:
        errors.InvalidBatch: a file of that name exists that wan-async did not write, a file holds no verdicts, or a
            flag is not for an object store.
        errors.Unusable: the journal can't be read, or the page not be written.
    """
    from wan_async.gallery.page import NAME, write

    home = kept_in(args, args.folder)
    database = home if isinstance(home, DatabaseHome) else None
    if database is not None and args.portable:
        raise errors.InvalidBatch([errors.Problem("--portable", "is for a folder that holds its own journal")])
    if not isinstance(args.folder, Path):
        for flag, given in (("--open", args.open), ("--portable", args.portable)):
            if given:
                raise errors.InvalidBatch([errors.Problem(flag, "is for a local folder, not for an object store")])
        print(put_page(args.folder, home, verdicts.read_all(args.verdicts or [])))
        return ExitCode.SUCCESS
    output: Path = args.folder
    page = output / NAME
    if not output_check.is_our_gallery(page):
        raise errors.InvalidBatch([errors.Problem(str(page), "exists and is not ours: move it away, or delete it")])
    clips = stored_clips(output, database)
    found = verdicts_for(output, clips, args.verdicts)
    print(write(output, home=database, verdicts=found, is_often_refused=has_odd_kind))
    code = ExitCode.SUCCESS if args.portable is None else _pack(output, args.portable, found or Verdicts())
    if args.open and not webbrowser.open(page.absolute().as_uri()):
        say("no browser could be opened: open the page yourself")
    return code


def _pack(output: Path, target: Path, found: Verdicts) -> ExitCode:
    """Write the zip, and say what is in it."""
    from wan_async.gallery.portable import pack

    packed = pack(output, target, found)
    print(sanitise(str(target)))
    say(
        f"{size(packed.bytes)}: the page, {packed.clips} clip{'s' * (packed.clips != 1)}, {packed.images} source "
        f"image{'s' * (packed.images != 1)}; the page shows prompts, ids, costs and reasons. Not in it: the journal, "
        "sidecars, keys, tokens, and the service's URLs"
    )
    for name in packed.gone[:SHOWN_PROBLEMS]:
        say(sanitise(f"left out: {name}: its file is gone or cut; run the batch again, which fetches it for free"))
    if len(packed.gone) > SHOWN_PROBLEMS:
        say(f"... and {len(packed.gone) - SHOWN_PROBLEMS} more")
    return ExitCode.FAILURES if packed.gone else ExitCode.SUCCESS
