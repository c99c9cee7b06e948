"""The package's log on stderr and in a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wan_async import errors
from wan_async.cli.display_text import sanitise
from wan_async.domain import events

_FACTS = logging.getLogger("wan_async.run")
_UNLOGGED = frozenset({"at", "run", "url"})


def log_fact(event: events.Event) -> None:
    """Write an event to the log file as `name field=value ...`; samples of progress are left out."""
    if isinstance(event, events.Progress | events.Downloading) or not _FACTS.isEnabledFor(logging.INFO):
        return
    name, *fields = events.as_dict(event).items()
    known = [f"{field}={json.dumps(value, ensure_ascii=False)}" for field, value in fields if _is_logged(field, value)]
    _FACTS.info("%s", " ".join([str(name[1]), *known]))


def _is_logged(field: str, value: object) -> bool:
    return field not in _UNLOGGED and value is not None


def _is_for_people(record: logging.LogRecord) -> bool:
    """Whether a record belongs on standard error: facts are there already, on the display."""
    return record.name != _FACTS.name


class LogHandler(logging.Handler):
    """Writes log lines to the current `sys.stderr`, which the display may have replaced.

    Tracebacks are written only at the levels INFO and DEBUG, which `-v` and `-vv` select.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; it is dropped if stderr is closed."""
        lines = [f"{record.levelname.lower()}: {sanitise(record.getMessage())}"]
        if record.exc_info and self.level <= logging.INFO:
            lines += _traceback(record.exc_info)
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("".join(f"{line}\n" for line in lines))


def _traceback(exc_info: Any) -> list[str]:
    text = logging.Formatter().formatException(exc_info)
    return [sanitise(line) for line in text.splitlines()]


class _FileFormatter(logging.Formatter):
    """Lines of the log file, safe for a terminal: a message is one line, a traceback several."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        return "\n".join(_traceback(ei))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return sanitise(super().formatMessage(record))


@contextmanager
def logging_to(verbosity: int, log_file: Path | None) -> Iterator[None]:
    """Within this block write the package's own log to stderr and a file. Other packages' logs may contain headers.

    The file has the facts of a run, too: see `log_fact`.

    Args:
        verbosity: how often `-v` was given.
        log_file: gets every level; None for no file.

    Raises:
        errors.InvalidBatch: the file can't be written.
    """
    logger = logging.getLogger("wan_async")
    people = LogHandler([logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)])
    people.addFilter(_is_for_people)
    handlers: list[logging.Handler] = [people]
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            problem = errors.Problem("--log-file", f"{log_file} can't be written: {error.strerror or error}")
            raise errors.InvalidBatch([problem]) from None
        file.setFormatter(_FileFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        handlers.append(file)
    for handler in handlers:
        logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG if log_file is not None else people.level)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
