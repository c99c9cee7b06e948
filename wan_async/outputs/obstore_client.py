"""The calls of obstore that a store of clips needs, blocking, with its errors translated.

Only the synchronous calls are used: the asynchronous ones now and then abort the interpreter when it ends. Nothing
that obstore says gets into a message but the service's error code and the HTTP status: the rest may hold more than a
log should.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from wan_async import errors
from wan_async.outputs.disk_errors import RUN_AGAIN

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import ClientConfig, ObjectStore

SHA256 = "sha256"
"""The object's own metadata that holds the hash of a clip."""
CHUNK_BYTES = 1 << 20
LARGE_BYTES = 64 << 20
"""Larger contents are sent in parts."""
LIST_CHUNK = 1000
RETRIES = 8
"""How often a request is repeated after a passing error, in a minute at most."""

_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_REFUSED = ("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
            "TokenRefreshRequired", "RequestExpired")  # fmt: skip
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""Where credentials may come from, by scheme."""
_PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url",
                   "proxy_ca_certificate", "proxy_excludes", "root_certificate")  # fmt: skip
"""Options of connections that may be in the environment, as `AWS_ALLOW_HTTP=true`."""
_FIRST_LINE = re.compile(r"\n.*", re.DOTALL)
_METADATA_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_NO_CONDITIONS = (405, 501)
"""The statuses of stores that don't know conditional requests."""
_PASSING = (408, 409, 425, 429)


class Exists(Exception):
    """An object has the name already; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a store knows of an object without reading it.

    Attributes:
        bytes: its length.
        sha256: its hash as it was stored with it; None if it has none.
    """

    bytes: int
    sha256: str | None


class ObstoreClient:
    """An object store below a URL.

    Args:
        url: the URL, as `output_locations` has checked it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._has_metadata = not url.startswith("file:")
        self._conditional = True
        self._folder = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
        self._connected: ObjectStore | None = None

    @property
    def _store(self) -> ObjectStore:
        if self._connected is None:
            self._connected = _connect(self.url)
        return self._connected

    def _is_missing(self) -> bool:
        """Whether this is a folder that the first file will make."""
        return self._folder is not None and not self._folder.exists()

    def facts(self, name: str) -> Facts | None:
        """What is known of an object; None if there is none."""
        if self._is_missing():
            return None
        with self._translated(name):
            try:
                found = obstore.get(self._store, name, options={"head": True})
            except FileNotFoundError as error:
                self._refuse_gone(error)
                return None
            stored = found.attributes.get(SHA256)
            return Facts(found.meta["size"], stored if isinstance(stored, str) else None)

    def sha256(self, name: str) -> str | None:
        """The SHA-256 of an object's bytes, which are read; None if there is none."""
        with self._translated(name):
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError as error:
                self._refuse_gone(error)
                return None
            digest = hashlib.sha256()
            for block in found.stream(min_chunk_size=CHUNK_BYTES):
                digest.update(block)
            return digest.hexdigest()

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None if there is none."""
        if self._is_missing():
            return None
        with self._translated(name):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError as error:
                self._refuse_gone(error)
                return None

    def create(self, name: str, content: Path | bytes, attributes: dict[str, str]) -> None:
        """Makes an object that does not exist yet, in one step.

        Where the store has conditional requests, nothing can come in between; else, and for contents of more than
        `LARGE_BYTES` bytes, it is checked first.

        Raises:
            Exists: there is one.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if self._conditional and size <= LARGE_BYTES:
            try:
                with self._translated(name, conditional=True):
                    obstore.put(
                        self._store, name, content, mode="create", use_multipart=False,
                        attributes=self._kept(attributes),
                    )  # fmt: skip
                    return
            except _Unsupported:
                self._conditional = False
        if self.facts(name) is not None:
            raise Exists
        with self._translated(name):
            obstore.put(self._store, name, content, attributes=self._kept(attributes))

    def replace(self, name: str, content: IO[bytes], attributes: dict[str, str]) -> None:
        """Makes an object, or replaces it in one step."""
        with self._translated(name):
            obstore.put(self._store, name, content, attributes=self._kept(attributes))

    def copy(self, name: str, new: str) -> None:
        """Copies an object within the store, which does so itself, with its metadata.

        Raises:
            Exists: there is an object of the new name.
            FileNotFoundError: there is none of the old one.
        """
        try:
            with self._translated(new, conditional=True):
                obstore.copy(self._store, name, new, overwrite=False)
                return
        except _Unsupported:  # S3 has no condition for a copy
            pass
        if self.facts(new) is not None:
            raise Exists
        with self._translated(new):
            obstore.copy(self._store, name, new)

    def delete(self, name: str) -> None:
        """Removes an object, if there is one."""
        with self._translated(name):
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:
                self._refuse_gone(error)

    def sizes(self) -> dict[str, int]:
        """The length of every object by name."""
        if self._is_missing():
            return {}
        with self._translated(""):
            listed = obstore.list(self._store, chunk_size=LIST_CHUNK)
            return {each["path"]: each["size"] for chunk in listed for each in chunk}

    def names(self) -> set[str]:
        """The names at the top: of objects, and of what would be folders."""
        if self._is_missing():
            return set()
        with self._translated(""):
            found = obstore.list_with_delimiter(self._store)
            return {*(each["path"] for each in found["objects"]), *found["common_prefixes"]}

    def _kept(self, attributes: dict[str, str]) -> dict[str, str] | None:
        """The attributes, where the store keeps any."""
        return attributes if self._has_metadata else None

    @staticmethod
    def _refuse_gone(error: FileNotFoundError) -> None:
        """That there is no such object is an answer; that there is no such bucket is an error."""
        if _code_of(error) in _NO_BUCKET:
            raise error

    @contextmanager
    def _translated(self, name: str, *, conditional: bool = False) -> Iterator[None]:
        """Translates errors. With `conditional`, those of stores without such requests become `_Unsupported`."""
        try:
            yield
        except AlreadyExistsError as error:
            if not conditional or _code_of(error) == "ConditionalRequestConflict":
                raise errors.TryLater(f"{self.url}: another request about {name} is under way") from None
            raise Exists from None
        except FileNotFoundError as error:
            if _code_of(error) not in _NO_BUCKET:
                raise
            raise self._translate(error) from None
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            unsupported = isinstance(error, NotSupportedError | NotImplementedError)
            if conditional and (unsupported or _status_of(error) in _NO_CONDITIONS):
                raise _Unsupported from None
            raise self._translate(error) from None

    def _translate(self, error: Exception) -> errors.WanError:
        code, status, text = _code_of(error), _status_of(error), str(error)
        said = f"{code or 'HTTP'} {status}" if status else code or "no answer"
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403)
        if code in _NO_BUCKET:
            why = f"there is no such bucket ({said}): make it, or choose another -o"
        elif any(server in text for server in _METADATA_SERVERS) or "MissingAccount" in text:
            why = f"no credentials for it were found: set {_VARIABLES[self.url.partition(':')[0]]}"
        elif refused or code in _REFUSED:
            why = f"the store refuses access ({said}): renew the credentials"
        elif "BadScheme" in text:
            why = "its server's address begins with http://: set AWS_ALLOW_HTTP=true"
        elif status is None and ("HTTP error" in text or "HttpError" in text):
            return errors.TryLater(
                f"{self.url}: the store can't be reached (its network, or its address in the environment)"
            )
        elif status is not None and (status >= 500 or status in _PASSING):
            return errors.TryLater(f"{self.url}: the store does not answer now ({said})", status=status)
        elif status is not None:
            why = f"the store refuses ({said}): fix that"
        elif self.url.startswith("file:"):
            why = f"{_FIRST_LINE.sub('', text)}: fix that"
        else:
            why = "its settings in the environment can't be used: fix them"
        return errors.Unusable(f"{self.url}: {why}, then {RUN_AGAIN}")


class _Unsupported(Exception):
    """The store has no such request."""


def _connect(url: str) -> ObjectStore:
    if url.startswith("file:"):
        return from_url(url, mkdir=True, automatic_cleanup=True)
    prefix = _PREFIXES[url.partition(":")[0]]
    chosen = {name: value for name in _CLIENT_OPTIONS if (value := os.environ.get(f"{prefix}{name.upper()}"))}
    client = {"connect_timeout": "10s", "timeout": "300s", **chosen}  # replaces what obstore finds itself
    return from_url(
        url,
        client_options=cast("ClientConfig", client),
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=60)},
        credential_provider=_profile() if url.startswith("s3:") else None,
    )


def _profile() -> Boto3CredentialProvider | None:
    """The credentials of the profile that `AWS_PROFILE` names, which obstore does not read itself."""
    name = os.environ.get("AWS_PROFILE")
    if not name or os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    if find_spec("boto3") is None:
        raise errors.Unusable(f"the profile {name} (AWS_PROFILE) needs the package boto3: pip install boto3")
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider(Session())
    except (BotoCoreError, ValueError) as error:
        raise errors.Unusable(f"the profile {name} (AWS_PROFILE) can't be used: {error}") from None


def _code_of(error: Exception) -> str | None:
    match = _CODE.search(str(error))
    return match[1] if match else None


def _status_of(error: Exception) -> int | None:
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None
