"""The store in an object store: the conformance suite on `file://` and on S3, and what only such stores do."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_stores import EXPIRED, ObjectPlace, environment, gateway, new_bucket
from store_conformance import CLIP, NAME, OTHER, PART, MakePlace, Place, StoreConformance, digest

from wan_async import errors
from wan_async.output_locations import OWNER
from wan_async.outputs import obstore_client
from wan_async.outputs.base import NameExists
from wan_async.outputs.obstore_client import SHA256, Exists, Facts, ObstoreClient


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: None) -> str:
    return new_bucket()


@pytest.fixture
def place(bucket: str, tmp_path: Path) -> ObjectPlace:
    place = ObjectPlace(f"s3://{bucket}/clips", tmp_path / "parts")
    place.store.part_path(PART).write_bytes(CLIP)
    return place


class TestFileUrl(StoreConformance):
    @pytest.fixture
    def make_place(self, tmp_path: Path) -> MakePlace:
        def make() -> Place:
            number = len(list(tmp_path.iterdir()))
            return ObjectPlace(f"file://{tmp_path}/place-{number}", tmp_path / f"place-{number}-parts")

        return make


class TestS3(StoreConformance):
    """On asyncio alone: the calls run in threads."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def make_place(self, bucket: str, tmp_path: Path) -> MakePlace:
        numbers = iter(range(100))

        def make() -> Place:
            number = next(numbers)
            return ObjectPlace(f"s3://{bucket}/clips/{number}", tmp_path / f"parts-{number}")

        return make


class TestS3WithoutConditions(TestS3):
    """A compatible store that answers 501 to conditional requests."""

    @pytest.fixture
    def make_place(self, bucket: str, tmp_path: Path) -> MakePlace:
        numbers = iter(range(100))

        def make() -> Place:
            number = next(numbers)
            place = ObjectPlace(f"s3://{bucket}/clips/{number}", tmp_path / f"parts-{number}")
            place.calls._conditional = False
            return place

        return make


@pytest.mark.anyio
async def test_a_clip_has_its_hash_and_type_in_its_metadata_and_is_not_read_again(place: ObjectPlace) -> None:
    await place.store.publish(PART, NAME, digest(CLIP))
    assert place.calls.facts(NAME) == Facts(len(CLIP), digest(CLIP))
    place.calls.sha256 = None  # type: ignore[method-assign, assignment] # reading it would fail
    assert await place.store.sha256(NAME) == digest(CLIP)
    await place.store.link(NAME, "dog.mp4")
    assert await place.store.sha256("dog.mp4") == digest(CLIP)


@pytest.mark.anyio
async def test_what_another_program_stored_meanwhile_is_left_alone(place: ObjectPlace) -> None:
    place.put(NAME, OTHER)
    with pytest.raises(NameExists):
        await place.store.publish(PART, NAME, digest(CLIP))
    assert place.get(NAME) == OTHER


@pytest.mark.anyio
async def test_a_part_that_was_damaged_on_disk_is_not_stored(place: ObjectPlace) -> None:
    place.store.part_path(PART).write_bytes(OTHER)
    with pytest.raises(errors.TryLater):
        await place.store.publish(PART, NAME, digest(CLIP))
    assert place.get(NAME) is None


@pytest.mark.anyio
async def test_a_large_clip_is_sent_in_parts_and_overwrites_nothing(
    place: ObjectPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstore_client, "LARGE_BYTES", 1000)
    large = b"0123456789abcdef" * (6 << 16)  # more than one part of a multipart upload
    place.store.part_path(PART).write_bytes(large)
    await place.store.publish(PART, NAME, digest(large))
    assert place.calls.facts(NAME) == Facts(len(large), digest(large))
    assert place.get(NAME) == large
    place.store.part_path(PART).write_bytes(CLIP)
    with pytest.raises(NameExists):
        await place.store.publish(PART, NAME, digest(CLIP))


@pytest.mark.anyio
async def test_a_store_belongs_to_the_journal_that_came_first(place: ObjectPlace) -> None:
    async def one() -> str:
        return "one"

    async def two() -> str:
        return "two"

    async def none() -> None:
        return None

    assert not await place.store.claim(none, make=False)
    assert place.names() == set()
    for _ in range(2):
        assert not await place.store.claim(one, make=True)
    for other in (two, none):
        with pytest.raises(errors.Unusable, match="another journal"):
            await place.store.claim(other, make=True)
    place.put(OWNER, b"not JSON")
    with pytest.raises(errors.Unusable, match="another journal"):
        await place.store.claim(one, make=True)
    place.calls.delete(OWNER)
    assert [await place.store.claim(two, make=make) for make in (False, True, True)] == [True, True, False]


@pytest.mark.anyio
async def test_a_results_file_of_the_user_is_not_replaced(place: ObjectPlace) -> None:
    async def one() -> str:
        return "one"

    place.put("results.jsonl", b"mine")
    with pytest.raises(errors.Unusable, match="jsonl is not ours"):
        await place.store.claim(one, make=True)
    assert place.names() == {"results.jsonl"}


@pytest.mark.anyio
async def test_names_and_sizes_are_those_of_the_folder(place: ObjectPlace) -> None:
    place.put("cat.mp4", CLIP)
    place.put("unassigned/task-1.mp4", OTHER)
    assert await place.store.names() == {"cat.mp4", "unassigned"}
    size_of = await place.store.sizes()
    assert [size_of(name) for name in ("cat.mp4", "unassigned/task-1.mp4", "dog.mp4")] == [len(CLIP), len(OTHER), None]


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (403, EXPIRED, errors.Unusable, "refuses access .ExpiredToken 403.: renew the credentials"),
        (400, EXPIRED, errors.Unusable, "refuses access .ExpiredToken 400.: renew the credentials"),
        (401, b"", errors.Unusable, "refuses access .HTTP 401."),
        (404, b"<Code>NoSuchBucket</Code>", errors.Unusable, "no such bucket"),
        (400, b"<Code>Odd</Code> secret", errors.Unusable, "the store refuses .Odd 400."),
        (409, b"<Code>ConditionalRequestConflict</Code>", errors.TryLater, "another request"),
        (503, b"<Code>SlowDown</Code>", errors.TryLater, "does not answer now .SlowDown 503."),
    ],
)
def test_what_a_store_answers_becomes_an_error_that_says_what_to_do(
    s3: None, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, error: type[errors.WanError], said: str
) -> None:
    monkeypatch.setattr(obstore_client, "RETRIES", 0)
    with gateway() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.refuse, server.body = status, body
        calls = ObstoreClient("s3://bucket/clips")
        with pytest.raises(error, match=said) as caught:
            calls.create(NAME, CLIP, {SHA256: digest(CLIP)})
        assert "secret" not in str(caught.value)


def test_a_store_without_conditional_requests_is_asked_first(s3: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore_client, "RETRIES", 0)
    bucket = new_bucket()
    with gateway() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.no_conditions = True
        calls = ObstoreClient(f"s3://{bucket}/clips")
        calls.create(NAME, CLIP, {SHA256: digest(CLIP)})
        with pytest.raises(Exists):
            calls.create(NAME, OTHER, {SHA256: digest(OTHER)})
        assert calls.read(NAME) == CLIP


def test_a_server_that_is_not_there_is_tried_later(s3: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore_client, "RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(errors.TryLater, match="can't be reached"):
        ObstoreClient("s3://bucket/clips").names()


def test_plain_http_is_refused_unless_it_is_allowed(s3: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(errors.Unusable, match="AWS_ALLOW_HTTP"):
        ObstoreClient("s3://bucket/clips").names()


def test_a_profile_has_the_credentials_where_the_environment_has_none(
    s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, file = new_bucket(), tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = of-the-profile\naws_secret_access_key = secret\n")
    with gateway() as server:
        for name, value in {"ENDPOINT_URL": server.url, "PROFILE": "team", "SHARED_CREDENTIALS_FILE": file}.items():
            monkeypatch.setenv(f"AWS_{name}", str(value))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert ObstoreClient(f"s3://{bucket}").names() == set()
        assert "Credential=of-the-profile/" in server.authorization
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(errors.Unusable, match="the profile nobody"):
            ObstoreClient(f"s3://{bucket}").names()
        monkeypatch.setattr(obstore_client, "find_spec", lambda name: None)
        with pytest.raises(errors.Unusable, match="pip install boto3"):
            ObstoreClient(f"s3://{bucket}").names()


def test_an_account_that_is_not_named_is_a_matter_of_credentials() -> None:
    with pytest.raises(errors.Unusable, match="AZURE_STORAGE_ACCOUNT_NAME"):
        ObstoreClient("az://container/clips").names()


def test_a_folder_in_place_of_a_store_is_made_with_its_first_file(tmp_path: Path) -> None:
    calls = ObstoreClient(f"file://{tmp_path}/a/b")
    assert (calls.names(), calls.sizes(), calls.read(NAME), calls.facts(NAME)) == (set(), {}, None, None)
    assert not (tmp_path / "a").exists()
    calls.create(NAME, CLIP, {SHA256: digest(CLIP)})
    assert (tmp_path / "a" / "b" / NAME).read_bytes() == CLIP
    assert (calls.sha256(NAME), calls.sha256("gone.mp4")) == (digest(CLIP), None)
    with pytest.raises(FileNotFoundError):
        calls.copy("gone.mp4", "new.mp4")


def test_a_file_in_place_of_the_folder_of_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.Unusable, match=r"file://.*fix that"):
        ObstoreClient(f"file://{tmp_path}/file/clips").create(NAME, CLIP, {SHA256: digest(CLIP)})
