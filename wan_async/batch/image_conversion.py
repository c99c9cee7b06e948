"""Upright, converted copies of images, which `--prepare` uploads in their place. Needs Pillow; blocking.

What is copied: images that only EXIF turns, of more than 8 bits a channel, in CMYK, and of formats that the service may
not take, HEIC among them. All others are uploaded as they are.

A copy is a file in the journal's folder, named by the hash of its original. A job's identity is made of that hash and a
mark, not of the copy's bytes: another release of Pillow encodes the same picture differently, and nothing that was
rendered may be paid for again because of that. The bytes are needed for uploads alone, which are known by their own
hash; a copy that is there is used as it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wan_async.batch.image_inspection import Facts, needs_copy
from wan_async.batch.images import Digest, digest, facts_of, fault_of_bytes, is_unchanged
from wan_async.domain.batch import Batch
from wan_async.domain.job import image_of, with_image
from wan_async.domain.text import shown
from wan_async.journal.image_paths import COPY

if TYPE_CHECKING:
    from PIL.Image import Image

MARK = "+upright"
"""What the identity of a copy has after the hash of its original."""
PIXELS_LIMIT = 178_000_000
"""Pixels of an image at most: decoding takes four bytes for each."""
KEPT_BYTES = 256 * 1024 * 1024
"""Copies that are kept in memory from the plan to the run; those beyond are made again."""

_THREADS = 4
_PHOTOS = frozenset({"image/jpeg", "image/heic", "image/avif"})
_QUALITY = 95
_MISSING = "--prepare needs Pillow: pip install 'wan-async[images]'"


@dataclass(frozen=True, slots=True)
class Upright:
    """A batch with copies in place of some of its images.

    Attributes:
        batch: the batch.
        inputs: the given ones, and the contents of the copies that are not there yet, by the files for them.
        digests: the digest of each copy, by its path.
        new: those among them that the given cache did not have, of copies that are there.
        originals: what stands for each copy in contents, by its path; also for copies that the batch names itself.
        faults: what is wrong with the images that can't be copied, by path.
    """

    batch: Batch
    inputs: Mapping[Path, bytes]
    digests: dict[str, str] = field(default_factory=dict)
    new: dict[str, Digest] = field(default_factory=dict)
    originals: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


class Unconvertible(ValueError):
    """No copy can be made; the message says why."""


def with_copies(
    batch: Batch,
    found: Mapping[str, Digest],
    facts: Mapping[str, Facts],
    inputs: Mapping[Path, bytes],
    folder: Path,
    cache: Mapping[str, Digest],
) -> Upright:
    """Puts copies in place of the images of a batch that need it, without writing any.

    Args:
        batch: the batch.
        found: the digests of its images, by path.
        facts: what their headers say.
        inputs: images that its jobs held in memory, by the files for them.
        folder: where the copies are, or are to be.
        cache: digests of an earlier run, by path.
    """
    sources = {path: known for path, known in facts.items() if needs_copy(known)}
    targets = {path: _target(folder, found[path].sha256, sources[path]) for path in sources}
    made = Upright(batch, {})
    made.originals.update(_copies_among(found, folder))
    missing: dict[Path, str] = {}
    for path, target in targets.items():
        made.originals[str(target)] = f"sha256:{found[path].sha256}{MARK}"
        try:
            known = cache.get(str(target))
            status = target.stat()
            if known is None or (known.size, known.mtime_ns) != (status.st_size, status.st_mtime_ns):
                known = made.new[str(target)] = digest(str(target))
            made.digests[str(target)] = known.sha256
        except (OSError, ValueError):
            missing[target] = path
    copies = _Copies(missing, inputs)
    hashed, faults = copies.hashed({path: sources[path] for path in missing.values()})
    made.digests.update({str(path): sha256 for path, sha256 in hashed.items()})
    made.faults.update(faults)
    jobs = []
    for planned in batch.jobs:
        image = image_of(planned.job)
        if image in targets and image not in faults:
            planned = replace(planned, job=with_image(planned.job, str(targets[image])))
        jobs.append(planned)
    return replace(made, batch=replace(batch, jobs=jobs), inputs=copies if missing else inputs)


def faults_of_copies(paths: Iterable[str], folder: Path, cache: Mapping[str, Digest]) -> dict[str, str]:
    """What is wrong with the images that can't be copied, by path. Those that were copied before are not decoded.

    Args:
        paths: images with which nothing else is wrong.
        folder: where the copies of earlier runs are.
        cache: digests of an earlier run, by path.
    """
    sources = {path: facts for path in paths if (facts := facts_of(path)) is not None and needs_copy(facts)}
    for path in [path for path in sources if path in cache]:
        with suppress(ValueError):
            if is_unchanged(path, cache[path]) and _target(folder, cache[path].sha256, sources[path]).exists():
                del sources[path]
    return _Copies({Path(path): path for path in sources}, {}).hashed(sources)[1]


def converted(path: str, facts: Facts) -> bytes:
    """The copy of an image: upright, 8 bits a channel, in sRGB, without metadata; a JPEG of photos, else a PNG.

    Raises:
        Unconvertible: Pillow can't decode it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if facts.width * facts.height > PIXELS_LIMIT:
        raise Unconvertible(f"has more than {PIXELS_LIMIT // 1_000_000} megapixels, too many to convert")
    if facts.kind == "image/heic":
        _register_heic()
    try:
        with Image.open(path) as image:
            picture = _plain(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise Unconvertible("can't be decoded by Pillow") from None
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, Image.DecompressionBombError) as error:
        raise Unconvertible(f"can't be decoded: {error}") from None
    buffer = io.BytesIO()
    if _suffix(facts) == ".jpg":
        picture.convert("L" if picture.mode == "L" else "RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    if fault := fault_of_bytes(buffer.getvalue()):
        raise Unconvertible(f"{fault} once it is converted")
    return buffer.getvalue()


def _copies_among(paths: Iterable[str], folder: Path) -> dict[str, str]:
    """What stands for images that are copies themselves: `again` knows a job's image by its copy."""
    home = os.path.abspath(folder)  # noqa: PTH100 - `resolve` would follow links
    named = ((path, COPY.fullmatch(os.path.basename(path))) for path in paths)  # noqa: PTH119 - of many paths
    return {
        path: f"sha256:{match[1]}{MARK}"
        for path, match in named
        if match and os.path.dirname(os.path.abspath(path)) == home  # noqa: PTH100, PTH120 - likewise
    }


def _target(folder: Path, sha256: str, facts: Facts) -> Path:
    return folder / f"{sha256}-upright{_suffix(facts)}"


def _suffix(facts: Facts) -> str:
    return ".jpg" if facts.kind in _PHOTOS else ".png"


def _register_heic() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise Unconvertible("is HEIC, which needs pillow-heif: pip install 'wan-async[images]'") from None
    register_heif_opener()


def _plain(image: Image) -> Image:
    """The picture in L, LA, RGB or RGBA, in sRGB, without metadata."""
    if image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    elif image.mode == "F" or image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("CMYK", "RGB"):
        image = _in_srgb(image, profile)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    image.info.clear()
    return image


def _in_srgb(image: Image, profile: bytes) -> Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        changed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a broken profile says nothing
    return changed if changed is not None else image


class _Copies(Mapping[Path, bytes]):
    """The contents of copies, made when they are asked for, unless they are still in memory.

    Args:
        sources: the originals, by the files of their copies.
        given: other contents.
    """

    def __init__(self, sources: Mapping[Path, str], given: Mapping[Path, bytes]) -> None:
        self._sources = dict(sources)
        self._facts: dict[str, Facts] = {}
        self._kept = dict(given)
        self._kept_bytes = 0

    def __getitem__(self, target: Path) -> bytes:
        if target in self._kept:
            return self._kept[target]
        source = self._sources[target]
        return converted(source, self._facts[source])

    def __iter__(self) -> Iterator[Path]:
        return iter(dict.fromkeys([*self._kept, *self._sources]))

    def __len__(self) -> int:
        return len(self._kept.keys() | self._sources.keys())

    def hashed(self, facts: Mapping[str, Facts]) -> tuple[dict[Path, str], dict[str, str]]:
        """Makes every copy; returns the hash of each, and the faults of the sources that none can be made of."""
        hashes: dict[Path, str] = {}
        faults: dict[str, str] = {}
        self._facts = dict(facts)
        if not self._sources:
            return hashes, faults
        try:
            import PIL  # noqa: F401
        except ImportError:
            return hashes, dict.fromkeys(self._sources.values(), _MISSING)

        def attempt(target: Path) -> bytes | Unconvertible:
            try:
                return self[target]
            except Unconvertible as error:
                return error

        with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
            warnings.simplefilter("ignore")  # of Pillow, about metadata and large pictures
            for target, made in zip(list(self._sources), pool.map(attempt, list(self._sources)), strict=True):
                if isinstance(made, Unconvertible):
                    source = self._sources.pop(target)
                    faults[source] = f"{shown(source, whole=True)} {made}"
                    continue
                hashes[target] = hashlib.sha256(made).hexdigest()
                if self._kept_bytes + len(made) <= KEPT_BYTES:
                    self._kept[target] = made
                    self._kept_bytes += len(made)
        return hashes, faults
