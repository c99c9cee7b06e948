"""Which account a journal belongs to: the API's origin, and a keyed hash of the API key."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from wan_async.domain.attempt import Account
from wan_async.errors import Unusable
from wan_async.journal.database import Database, upsert


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
        raise Unusable(
            f"this folder's journal belongs to the account at {kept['origin']}, not to {account.origin}: use another "
            "output folder (-o), or the same WIRO_BASE_URL as before"
        )
    if used:
        return
    salt = kept.get("salt") or secrets.token_hex(16)
    rows = {"salt": salt, "origin": account.origin, "key": keyed_hash(salt, account.key)}
    if not rows.items() <= kept.items():
        db.execute("DELETE FROM uploads")  # they belong to another account
        db.executemany(upsert("meta", "name", "value"), list(rows.items()))
