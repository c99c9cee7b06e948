"""Where the journals of an output are: in its folder, or for an object store in the user's state folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from wan_async.errors import Unusable
from wan_async.journal.base import FILE, FOLDER, DatabaseHome, Home
from wan_async.output_locations import OWNER, Location, Owner

SINGLE = "generate"
"""The folder of the journals of single clips, in the folder of the run's."""
_READABLE_LENGTH = 60
_SHOWN = ("host", "port", "user", "dbname")


def public_address(dsn: str) -> str:
    """The address of a database without passwords and other options: what may be shown and kept beside clips."""
    scheme, _, rest = dsn.partition("://")
    place, _, query = rest.partition("?")
    authority, slash, name = place.partition("/")
    user, at, hosts = authority.rpartition("@")
    shown = [pair for pair in query.split("&") if pair.partition("=")[0] in _SHOWN]
    return f"{scheme}://{user.partition(':')[0]}{at}{hosts}{slash}{name}{'?' * bool(shown)}{'&'.join(shown)}"


def database_of(home: Home) -> str | None:
    """The address of the database that a journal is kept in, without a password; None if it is in a folder."""
    return public_address(home.dsn) if isinstance(home, DatabaseHome) else None


def home_of(output: Location, journal: Path | None = None) -> Path:
    """The folder of the journal of an output's runs.

    Args:
        output: the output.
        journal: the folder, if it was named.
    """
    if journal is not None:
        return journal
    if isinstance(output, Path):
        return output / FOLDER
    from platformdirs import user_state_path  # outputs in folders do without it

    readable = re.sub(r"[^A-Za-z0-9._]+", "-", output.text)[:_READABLE_LENGTH].strip("-.")
    mark = hashlib.sha256(output.text.encode()).hexdigest()[:8]
    return user_state_path("wan-async", appauthor=False) / "outputs" / f"{readable}-{mark}"


def trial_of(output: Path) -> Path:
    """The folder beside an output folder in which a trial (`--sandbox`) puts its clips."""
    return output.with_name(f"{output.name}.sandbox") if output.name else output


def homes_of(output: Location, journal: Path | None = None) -> list[Path]:
    """The homes of the journals of an output: a run's, then those of `generate`, by the clips' names."""
    home = home_of(output, journal)
    return [home, *sorted((home / SINGLE).glob("*"))] if isinstance(output, Path) else [home]


def local_home(home: Home, output: Location) -> Path:
    """The folder for what belongs to a journal and stays on this machine: its own, if it has one."""
    return home if isinstance(home, Path) else home_of(output)


def refuse_foreign(home: Path) -> None:
    """Refuses a journal in a folder whose clips belong to one in a database; one that exists already is not looked at.

    Raises:
        Unusable: they do; names the database.
    """
    path = home.parent / OWNER
    if home.name != FOLDER or (home / FILE).exists():
        return
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror or error}") from None
    raise Unusable(in_database(home.parent, Owner.loads(content)))


def in_database(output: object, owner: Owner) -> str:
    """Says which flag the clips of an output need whose journal is in a database."""
    return (
        f"the clips in {output} are those of workers, whose journal is in PostgreSQL: add {owner.flag} "
        "(with its password, if it needs one)"
    )


def refuse_second(home: DatabaseHome, output: Location) -> None:
    """Refuses a journal in a database for a folder that holds its own.

    Raises:
        Unusable: it does.
    """
    if isinstance(output, Path) and (output / FOLDER / FILE).exists():
        raise Unusable(
            f"{output} holds a journal of its own, which knows what was paid for: leave --journal out, or use another "
            "-o"
        )


def is_of_single_clip(home: Home, output: Location) -> bool:
    """Whether the journal in `home` is of a single clip, and others of the same output have journals of their own."""
    return isinstance(home, Path) and isinstance(output, Path) and home != output / FOLDER


def name_of_output(output: Location) -> str:
    """What a journal in a database calls its output: the same for every process that has it at the same place."""
    return str(output.resolve()) if isinstance(output, Path) else output.text
