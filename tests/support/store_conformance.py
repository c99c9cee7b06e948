"""The tests that any `Store` must pass: a test class inherits `StoreConformance` and overrides `make_place`.

The suite calls only the protocol's methods; a `Place` gives access from outside, and stores that are killed at a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from wan_async import errors
from wan_async.outputs.base import NameExists, Store, numbered, sidecar_name

PART, NAME = "cat.7.part", "cat.mp4"
CLIP, OTHER = b"the clip" * 1000, b"another file"


class Killed(BaseException):
    """The simulated death of the process."""


class Place(Protocol):
    """Access to the files of a store without the store.

    Attributes:
        store: a store with this place.
    """

    store: Store

    def dying(self, step: int) -> Store:
        """A store with the same place that raises `Killed` instead of step number `step`, counted from 0."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write a file, as another process would."""
        ...

    def get(self, name: str) -> bytes | None:
        """The content of a file, None if it does not exist."""
        ...

    def names(self) -> set[str]:
        """The names of all files."""
        ...


MakePlace = Callable[[], Place]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class StoreConformance:
    """The tests; a subclass overrides the fixture `make_place`."""

    @pytest.fixture
    def make_place(self) -> MakePlace:
        """A function that makes a new, empty place with each call."""
        raise NotImplementedError

    @pytest.fixture
    def place(self, make_place: MakePlace) -> Place:
        place = make_place()
        place.store.part_path(PART).write_bytes(CLIP)
        return place

    @pytest.mark.anyio
    async def test_a_name_exists_once_a_file_has_it(self, place: Place) -> None:
        assert not await place.store.exists(NAME)
        place.put(NAME, OTHER)
        assert await place.store.exists(NAME)

    @pytest.mark.anyio
    async def test_sha256_hashes_a_stored_file_or_a_part(self, place: Place) -> None:
        place.put(NAME, OTHER)
        assert await place.store.sha256(NAME) == await place.store.sha256(NAME, follow_links=False) == digest(OTHER)
        assert await place.store.sha256(PART) == digest(CLIP)
        assert await place.store.sha256("nothing.mp4") is None

    @pytest.mark.anyio
    async def test_a_published_part_has_its_final_name_only(self, place: Place) -> None:
        await place.store.publish(PART, NAME, digest(CLIP))
        assert place.get(NAME) == CLIP
        assert place.names() == {NAME}
        assert not place.store.part_path(PART).exists()

    @pytest.mark.anyio
    async def test_a_part_can_be_published_in_a_subfolder_and_moved_to_the_top_folder(self, place: Place) -> None:
        part, name = "further/cat.part", "further/cat.mp4"
        for _ in range(2):
            await place.store.make_folder("further")
        place.store.part_path(part).write_bytes(CLIP)
        await place.store.publish(part, name, digest(CLIP))
        assert place.get(name) == CLIP
        await place.store.publish(name, NAME, digest(CLIP))
        assert (place.get(name), place.get(NAME)) == (None, CLIP)

    @pytest.mark.anyio
    async def test_publishing_overwrites_no_file(self, place: Place) -> None:
        place.put(NAME, OTHER)
        with pytest.raises(NameExists) as caught:
            await place.store.publish(PART, NAME, digest(CLIP))
        assert caught.value.kind == "target"
        assert place.get(NAME) == OTHER
        assert place.store.part_path(PART).read_bytes() == CLIP

    @pytest.mark.anyio
    async def test_publishing_is_idempotent(self, place: Place) -> None:
        await place.store.publish(PART, NAME, digest(CLIP))
        await place.store.publish(PART, NAME, digest(CLIP))
        place.store.part_path(PART).write_bytes(CLIP)  # as after a power failure: the old name exists again
        await place.store.publish(PART, NAME, digest(CLIP))
        assert (place.get(NAME), place.names()) == (CLIP, {NAME})
        assert not place.store.part_path(PART).exists()

    @pytest.mark.anyio
    async def test_publishing_a_missing_part_raises_try_later(self, place: Place) -> None:
        with pytest.raises(errors.TryLater):
            await place.store.publish("gone.part", NAME, digest(CLIP))
        place.put(NAME, OTHER)
        with pytest.raises(errors.TryLater):
            await place.store.publish("gone.part", NAME, digest(CLIP))
        assert place.get(NAME) == OTHER

    @pytest.mark.anyio
    async def test_a_kill_while_publishing_loses_no_clip(self, make_place: MakePlace) -> None:
        for place, dying, died in deaths(make_place):
            place.store.part_path(PART).write_bytes(CLIP)
            with died:
                await dying.publish(PART, NAME, digest(CLIP))
            part = place.store.part_path(PART)
            assert CLIP in (place.get(NAME), part.read_bytes() if part.exists() else None)
            await place.store.publish(PART, NAME, digest(CLIP))
            assert (place.get(NAME), place.names()) == (CLIP, {NAME})

    @pytest.mark.anyio
    async def test_the_free_name_has_the_lowest_unused_number(self, place: Place) -> None:
        assert await place.store.free_name(NAME) == "cat.1.mp4"
        for number in (1, 2, 4):
            place.put(numbered(NAME, number), OTHER)
        assert await place.store.free_name(NAME) == "cat.3.mp4"
        assert await place.store.free_name("further/v1.2.bin") == "further/v1.2.1.bin"

    @pytest.mark.anyio
    async def test_a_copied_clip_is_found_and_has_its_sidecar(self, place: Place) -> None:
        place.put(NAME, CLIP)
        place.put(sidecar_name(NAME), b"{}")
        place.put("cat.1.mp4", OTHER)
        assert await place.store.find_copy(NAME) is None
        await place.store.copy(NAME, "cat.2.mp4")
        if place.get(NAME) is not None:  # else it was renamed
            assert await place.store.find_copy(NAME) == "cat.2.mp4"
        await place.store.remove(NAME)
        assert (place.get("cat.1.mp4"), place.get("cat.2.mp4"), place.get("cat.2.json")) == (OTHER, CLIP, b"{}")
        assert place.names() == {"cat.1.mp4", "cat.2.mp4", "cat.2.json"}

    @pytest.mark.anyio
    async def test_a_linked_clip_has_both_names_whenever_it_is_linked_again(self, place: Place) -> None:
        place.put(NAME, CLIP)
        for _ in range(2):
            await place.store.link(NAME, "dog.mp4")
            assert (place.get(NAME), place.get("dog.mp4")) == (CLIP, CLIP)
        assert place.names() == {NAME, "dog.mp4"}
        place.put("bird.mp4", OTHER)
        with pytest.raises(NameExists):
            await place.store.link(NAME, "bird.mp4")
        assert place.get("bird.mp4") == OTHER

    @pytest.mark.anyio
    async def test_a_kill_while_linking_damages_no_clip(self, make_place: MakePlace) -> None:
        for place, dying, died in deaths(make_place):
            place.put(NAME, CLIP)
            with died:
                await dying.link(NAME, "dog.mp4")
            assert (place.get(NAME), place.get("dog.mp4") in (None, CLIP)) == (CLIP, True)
            await place.store.link(NAME, "dog.mp4")
            assert place.get("dog.mp4") == CLIP

    @pytest.mark.anyio
    async def test_copying_overwrites_no_clip(self, place: Place) -> None:
        place.put(NAME, CLIP)
        place.put("cat.1.mp4", OTHER)
        with pytest.raises(errors.WanError):
            await place.store.copy(NAME, "cat.1.mp4")
        assert (place.get(NAME), place.get("cat.1.mp4")) == (CLIP, OTHER)

    @pytest.mark.anyio
    async def test_a_kill_while_copying_or_removing_loses_no_clip(self, make_place: MakePlace) -> None:
        new = "cat.1.mp4"
        for place, dying, died in deaths(make_place):
            place.put(NAME, CLIP)
            place.put(sidecar_name(NAME), b"{}")
            with died:
                await dying.copy(NAME, new)
                await dying.remove(NAME)
            assert CLIP in (place.get(NAME), place.get(new))
            assert b"{}" in (place.get(sidecar_name(NAME)), place.get(sidecar_name(new)))
            if place.get(NAME) is not None:
                assert await place.store.find_copy(NAME) in (None, new)
                await place.store.copy(NAME, new)
                await place.store.remove(NAME)
            assert place.get(new) == CLIP

    @pytest.mark.anyio
    async def test_replacing_is_atomic(self, make_place: MakePlace) -> None:
        for place, dying, died in deaths(make_place):
            place.put("cat.json", b"old")
            with died:
                await dying.replace("cat.json", ["n", "ew \u00fc"])
            assert place.get("cat.json") in (b"old", "new \u00fc".encode())
            await place.store.replace("cat.json", ["n", "ew \u00fc"])
            assert (place.get("cat.json"), place.names()) == ("new \u00fc".encode(), {"cat.json"})

    @pytest.mark.anyio
    async def test_an_exception_in_the_texts_keeps_the_old_file(self, place: Place) -> None:
        def texts() -> Iterator[str]:
            yield "new"
            raise ValueError("failed")

        place.put("cat.json", b"old")
        with pytest.raises(ValueError, match="failed"):
            await place.store.replace("cat.json", texts())
        assert place.get("cat.json") == b"old"

    @pytest.mark.anyio
    @pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
    async def test_a_replaced_file_has_all_texts(self, place: Place, count: int) -> None:
        await place.store.replace("results.jsonl", (f"{number} \ud800\n" for number in range(count)))
        assert place.get("results.jsonl") == b"".join(b"%d ?\n" % number for number in range(count))

    @pytest.mark.anyio
    async def test_removing_deletes_only_the_named_files_and_empty_folders(self, place: Place) -> None:
        await place.store.make_folder("further")
        names = ["further/cat.mp4", "further/cat.json", "further/cat.part"]
        place.put("further/cat.mp4", CLIP)
        place.put("further/dog.mp4", OTHER)
        place.store.part_path("further/cat.part").write_bytes(CLIP)
        for _ in range(2):
            await place.store.remove(*names)
            assert place.names() == {"further/dog.mp4"}
            assert not place.store.part_path("further/cat.part").exists()
        await place.store.remove("further/dog.mp4")
        assert place.names() == set()
        assert not await place.store.exists("further")


class _Died:
    """Context manager that suppresses `Killed` and records whether it was raised."""

    def __init__(self) -> None:
        self.happened = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.happened = kind is not None and issubclass(kind, Killed)
        return self.happened


def deaths(make_place: MakePlace) -> Iterator[tuple[Place, Store, _Died]]:
    """Yield a new place and a store that is killed at step 0, 1, 2, ..., until the block ends without a kill."""
    died, step = _Died(), 0
    while True:
        place = make_place()
        yield place, place.dying(step), died
        if not died.happened:
            assert step, "the store has no steps"
            return
        step += 1
