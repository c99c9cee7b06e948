"""The store in a local folder: the conformance suite, and the cases of a file system: links, folders, disk errors."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
import pytest
from cdn import Order
from store_conformance import CLIP, NAME, OTHER, PART, Killed, MakePlace, Place, StoreConformance, digest

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.output_locations import OWNER, Owner
from wan_async.outputs.base import NameExists, Store
from wan_async.outputs.local import LocalStore
from wan_async.outputs.sidecar import json_lines, json_text
from wan_async.threads import inline


@dataclass
class Dying(Order):
    """Simulates a process that dies at a step."""

    step: int = 0

    def note(self, name: str) -> None:
        if len(self.log) == self.step:
            raise Killed
        super().note(name)


@dataclass
class Folder:
    """A local folder as a `Place`."""

    path: Path
    failing: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.mkdir()
        self.store: Store = LocalStore(self.path, Order(failing=self.failing))

    def dying(self, step: int) -> Store:
        return LocalStore(self.path, Dying(failing=self.failing, step=step), inline)

    def put(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)

    def get(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def names(self) -> set[str]:
        paths = (path for path in self.path.rglob("*") if not path.is_dir())
        return {path.relative_to(self.path).as_posix() for path in paths if path.suffix != ".part"}


def places(folder: Path, failing: dict[str, int]) -> MakePlace:
    def make() -> Place:
        return Folder(folder / f"place-{len(list(folder.iterdir()))}", failing)

    return make


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def make_place(self, tmp_path: Path) -> MakePlace:
        return places(tmp_path, {})


class TestLocalStoreWithoutHardLinks(StoreConformance):
    @pytest.fixture
    def make_place(self, tmp_path: Path) -> MakePlace:
        return places(tmp_path, {"link": errno.EPERM})


pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / PART).write_bytes(CLIP)
    return folder


async def publish(folder: Path, files: Files) -> None:
    await LocalStore(folder, files).publish(PART, NAME, digest(CLIP))


async def test_publishing_links_then_unlinks_then_makes_the_folder_durable(folder: Path) -> None:
    files = Order()
    await publish(folder, files)
    assert files.log == ["link", "unlink", "fsync folder"]


@pytest.mark.parametrize("step", ["link", "unlink", "fsync folder"])
async def test_publishing_again_after_a_disk_error_completes_it(folder: Path, step: str) -> None:
    with pytest.raises(errors.Unusable):
        await publish(folder, Order(failing={step: errno.EIO}))
    await publish(folder, Order())
    assert ((folder / NAME).read_bytes(), (folder / PART).exists()) == (CLIP, False)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.EXDEV])
async def test_without_hard_links_a_part_is_renamed(folder: Path, code: int) -> None:
    files = Order(failing={"link": code})
    await publish(folder, files)
    assert files.log == ["link", "rename", "unlink", "fsync folder"]
    assert ((folder / NAME).read_bytes(), (folder / PART).exists()) == (CLIP, False)
    (folder / PART).write_bytes(CLIP)
    await publish(folder, files)
    assert ((folder / NAME).read_bytes(), (folder / PART).exists()) == (CLIP, False)


@pytest.mark.parametrize("code", [None, errno.EPERM])
async def test_a_folder_of_that_name_is_never_overwritten(folder: Path, code: int | None) -> None:
    (folder / NAME).mkdir()
    with pytest.raises(NameExists):
        await publish(folder, Order(failing={"link": code} if code else {}))


@pytest.mark.parametrize("code", [None, errno.EINVAL])
@pytest.mark.parametrize("leads_to", ["nothing", "the same", "another"])
async def test_a_target_that_is_a_link_is_refused_and_not_modified(
    folder: Path, code: int | None, leads_to: str
) -> None:
    elsewhere, target = folder.with_name("elsewhere"), folder / NAME
    if leads_to != "nothing":
        elsewhere.write_bytes(CLIP if leads_to == "the same" else b"precious")
    target.symlink_to(elsewhere)
    with pytest.raises(NameExists, match=r"cat\.mp4"):
        await publish(folder, Order(failing={"link": code} if code else {}))
    assert target.is_symlink()
    assert (folder / PART).read_bytes() == CLIP
    assert elsewhere.exists() is (leads_to != "nothing")


async def test_a_part_that_is_a_link_is_not_published(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    (folder / PART).rename(elsewhere)
    (folder / PART).symlink_to(elsewhere)
    with pytest.raises(errors.JobFailed, match=r"cat\.7\.part") as caught:
        await publish(folder, Order())
    assert caught.value.kind == "target"
    assert not isinstance(caught.value, NameExists)
    assert not (folder / NAME).exists()


async def test_a_lack_of_descriptors_or_threads_is_temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.TryLater):
        await publish(folder, Order(failing={"fsync folder": errno.EMFILE}))
    await publish(folder, Order())

    async def no_thread(*args: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", no_thread)
    with pytest.raises(errors.TryLater):
        await publish(folder, Order())


async def test_the_hash_of_a_link_is_that_of_its_target_or_none(folder: Path) -> None:
    (folder / NAME).symlink_to(folder / PART)
    store = LocalStore(folder)
    assert await store.sha256(NAME) == digest(CLIP)
    assert await store.sha256(NAME, follow_links=False) is None
    assert await store.sha256("") is None


async def test_a_name_used_by_a_folder_or_a_broken_link_exists(folder: Path) -> None:
    store = LocalStore(folder)
    (folder / "cat.1.mp4").mkdir()
    (folder / "cat.2.mp4").symlink_to("nowhere")
    assert await store.exists("cat.1.mp4")
    assert await store.exists("cat.2.mp4")
    assert await store.free_name(NAME) == "cat.3.mp4"


async def test_a_subfolder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "further").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.JobFailed, match="link") as caught:
        await LocalStore(folder).make_folder("further")
    assert caught.value.kind == "target"


async def test_a_copy_is_durable_before_it_is_reported(folder: Path) -> None:
    (folder / NAME).write_bytes(OTHER)
    (folder / "cat.json").write_text("{}")
    files = Order()
    await LocalStore(folder, files).copy(NAME, "cat.1.mp4")
    assert files.log == ["link", "replace", "fsync folder"]


REPLACEMENTS = pytest.mark.parametrize(
    ("texts", "writes"),
    [(lambda: json_text({"new": True}), 1), (lambda: json_lines({"new": 1} for _ in range(2500)), 3)],
)


@REPLACEMENTS
async def test_a_replacement_is_durable_before_it_has_its_name(
    folder: Path, texts: Callable[[], list[str]], writes: int
) -> None:
    files = Order()
    await LocalStore(folder, files).replace("cat.json", texts())
    assert files.log == ["unlink", "open", *["write"] * writes, "fsync", "replace", "fsync folder"]


@REPLACEMENTS
@pytest.mark.parametrize("failing", ["unlink", "open", "write", "fsync", "replace"])
@pytest.mark.parametrize("old", [b'{"old": true}\n', None])
async def test_a_full_disk_leaves_the_old_file(
    folder: Path, texts: Callable[[], list[str]], writes: int, failing: str, old: bytes | None
) -> None:
    path = folder / "cat.json"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(errors.Unusable, match="full"):
        await LocalStore(folder, Order(failing={failing: errno.ENOSPC})).replace(path.name, texts())
    assert (path.read_bytes() if path.exists() else None) == old
    await LocalStore(folder).replace(path.name, texts())
    assert b"new" in path.read_bytes()
    assert {each.name for each in folder.iterdir()} == {"cat.json", PART}


async def test_a_name_that_is_not_durable_is_reported(folder: Path) -> None:
    with pytest.raises(errors.Unusable):
        await LocalStore(folder, Order(failing={"fsync folder": errno.EIO})).replace("cat.json", ["new"])
    assert (folder / "cat.json").read_text() == "new"


async def test_the_temporary_file_of_a_crashed_process_is_not_appended_to(folder: Path) -> None:
    (folder / "cat.json.tmp").write_bytes(b"x" * 1000)
    await LocalStore(folder).replace("cat.json", ["{}"])
    assert (folder / "cat.json").read_text() == "{}"


async def test_the_temporary_file_of_a_sidecar_is_removed_with_it(folder: Path) -> None:
    (folder / "cat.json.tmp").write_bytes(b"half")
    await LocalStore(folder).remove("cat.json", PART)
    assert list(folder.iterdir()) == []


async def test_a_missing_folder_or_a_folder_at_the_path_is_a_disk_error(folder: Path) -> None:
    with pytest.raises(errors.Unusable, match="gone"):
        await LocalStore(folder / "gone").replace("cat.json", ["{}"])
    (folder / "cat.json").mkdir()
    with pytest.raises(errors.Unusable):
        await LocalStore(folder).replace("cat.json", ["{}"])
    assert (folder / "cat.json").is_dir()


@pytest.mark.parametrize("name", ["cat.json", "cat.json.tmp"])
@pytest.mark.parametrize("broken", [False, True])
async def test_a_link_is_not_replaced_and_its_target_not_modified(folder: Path, name: str, broken: bool) -> None:
    elsewhere = folder.with_name("elsewhere")
    if not broken:
        elsewhere.write_bytes(b"mine")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(errors.JobFailed, match=name) as caught:
        await LocalStore(folder).replace("cat.json", ["{}"])
    assert caught.value.kind == "target"
    assert broken or elsewhere.read_bytes() == b"mine"
    assert (folder / name).is_symlink()
    assert elsewhere.exists() is not broken


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    linked = folder.with_name("linked")
    linked.symlink_to(folder, target_is_directory=True)
    await LocalStore(linked).replace("cat.json", json_text({"new": True}))
    assert json.loads((linked / "cat.json").read_bytes()) == {"new": True}


@pytest.mark.anyio
async def test_a_folder_belongs_to_the_journal_in_a_database_that_came_first(tmp_path: Path) -> None:
    async def one() -> str:
        return "one"

    async def two() -> str:
        return "two"

    store, database = LocalStore(tmp_path), "postgresql://db.example/clips"
    assert [await store.claim(one, make=make, database=database) for make in (False, True, True)] == [False] * 3
    assert Owner.loads((tmp_path / OWNER).read_bytes()) == Owner("one", database)
    with pytest.raises(errors.Unusable, match=r"--journal postgresql://db\.example/clips"):
        await store.claim(two, make=True, database="postgresql://elsewhere/clips")
    (tmp_path / OWNER).write_bytes(b"")
    with pytest.raises(errors.Unusable, match="another journal"):
        await store.claim(one, make=True, database=database)
    (tmp_path / OWNER).unlink()
    assert [await store.claim(two, make=make, database=database) for make in (False, True, True)] == [True, True, False]
    assert {path.name for path in (tmp_path / OWNER).parent.iterdir()} == {"journal-id", "used"}
