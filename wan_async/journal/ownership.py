"""Which account a journal belongs to: the API's origin, and a keyed hash of the API key."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from wan_async.domain.attempt import Account
from wan_async.errors import Unusable
from wan_async.journal.sql_interface import Database, upsert

SANDBOX = "the sandbox"
"""The origin of the local sandbox of `--sandbox`, whatever its port."""


def keyed_hash(salt: str, key: str) -> str:
    """The hash by which the journal recognises an API key; `salt` is in hex and differs in each journal."""
    return hmac.new(bytes.fromhex(salt), key.encode(), hashlib.sha256).hexdigest()


def check_owner(db: Database, account: Account, *, in_use: bool = False) -> None:
    """Makes the account the owner of a journal without attempts; its uploads are forgotten if that changes the owner.

    Within the caller's transaction; nothing is changed before an error.

    Args:
        db: the journal.
        account: the account.
        in_use: whether another process has the journal open, so that its owner can't change.

    Raises:
        Unusable: the journal has attempts and belongs to another origin.
    """
    kept = dict(db.execute("SELECT name, value FROM meta"))
    used = db.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()[0]
    used = used or (in_use and "origin" in kept)
    if used and kept["origin"] != account.origin:
        advice = "use another output folder (-o), or the same WIRO_BASE_URL as before"
        if kept["origin"] == SANDBOX:
            advice = (
                "its clips are a trial's: add --sandbox to go on with that, or use another folder (-o) for real ones"
            )
        elif account.origin == SANDBOX:
            advice = "try it in a folder of its own, as without -o (OUT.sandbox), or leave --sandbox out"
        raise Unusable(
            f"this folder's journal belongs to the account at {kept['origin']}, not to {account.origin}: {advice}"
        )
    if used:
        return
    salt = kept.get("salt") or secrets.token_hex(16)
    rows = {"salt": salt, "origin": account.origin, "key": keyed_hash(salt, account.key)}
    if not rows.items() <= kept.items():
        db.execute("DELETE FROM uploads")  # they belong to another account
        db.executemany(upsert("meta", "name", "value"), list(rows.items()))
