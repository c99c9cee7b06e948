"""Which store holds the clips: a local folder, or an object store, whose package is loaded only then."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.output_locations import Location
from wan_async.outputs.base import Store
from wan_async.threads import Offload


def store_for(output: Location, *, parts: Path, files: Files | None = None, offload: Offload | None = None) -> Store:
    """The store of an output. Nothing is requested of it yet.

    Args:
        output: the folder, or the URL.
        parts: the local folder of what is not stored yet; of no use for a folder, which has parts itself.
        files: the file operations.
        offload: where calls run, by default in threads.

    Raises:
        errors.Unusable: the package for object stores is missing, or its settings in the environment can't be used.
    """
    if isinstance(output, Path):
        from wan_async.outputs.local import LocalStore  # the one that is needed

        return LocalStore(output, files, offload)
    if find_spec("obstore") is None:
        raise errors.Unusable(f"{output} needs the package obstore: pip install 'wan-async[s3]'")
    from wan_async.outputs.object_store import ObjectStore
    from wan_async.outputs.obstore_client import ObstoreClient

    return ObjectStore(ObstoreClient(output.text), parts, files, offload)
