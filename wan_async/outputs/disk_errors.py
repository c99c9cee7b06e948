"""What the disk refuses, as the errors of this package."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from wan_async import errors
from wan_async.filesystem import IsALink, is_transient
from wan_async.threads import Offload

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RUN_AGAIN = "run the same command again: no paid clip is lost"


async def on_disk(offload: Offload, path: Path, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
    """Runs a blocking file operation and translates its errors.

    Args:
        offload: where it runs.
        path: the file that the messages name.
        func: the operation.
        *args: its arguments.

    Raises:
        errors.TryLater: there are too many open files or threads right now.
        errors.JobFailed: of kind `target`: the file to be written is a symbolic link.
        errors.Unusable: the disk refused; the message says what to do.
    """
    try:
        return await offload(func, *args)
    except IsALink as error:
        raise errors.JobFailed(f"{error.filename}: {error.strerror}", kind="target") from None
    except (OSError, RuntimeError) as error:
        if is_transient(error):
            raise errors.TryLater(f"{path.name} can't be written right now ({error})") from error
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.Unusable(f"the disk is full ({path.parent}): free some space and {RUN_AGAIN}") from error
        reason = error.strerror or str(error)
        raise errors.Unusable(f"{path} can't be written ({reason}): fix that and {RUN_AGAIN}") from error
