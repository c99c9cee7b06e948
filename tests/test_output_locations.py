"""Where clips go: folders, and the URLs of object stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_async.journal.base import FOLDER
from wan_async.journal.journal_location import home_of, homes_of, is_of_single_clip
from wan_async.output_locations import OutputUrl, location_of


@pytest.mark.parametrize("text", ["clips", "/srv/clips", "C:clips", "a:b/c", "", "s3/bucket"])
def test_a_path_is_a_folder(text: str) -> None:
    assert location_of(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("s3://bucket", "s3://bucket", "bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b", "b"),
        ("gs://bucket/a", "gs://bucket/a", "a"),
        ("az://container/a", "az://container/a", "a"),
        ("file:///srv/clips", "file:///srv/clips", "clips"),
    ],
)
def test_a_url_is_an_object_store(text: str, url: str, name: str) -> None:
    found = location_of(text)
    assert isinstance(found, OutputUrl)
    assert (str(found), found.name, found / "cat.mp4") == (url, name, f"{url}/cat.mp4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://host/x", "not to http://"),
        ("ftp:/host", "not to ftp:/"),
        ("s3://", "the bucket is missing"),
        ("s3:///x", "the bucket is missing"),
        ("s3://user:secret@bucket/x", "credentials"),
        ("s3://secret@bucket/x", "credentials"),
        ("s3://bucket:9000/x", "a port"),
        ("s3://[secret/x", "no s3:// URL"),
        ("s3://bucket/x?secret=1", "'\\?' can't be"),
        ("s3://bucket/${SECRET}", "variables are not filled in"),
        ("s3://bucket/a b", "' ' can't be"),
        ("s3://bucket/a//b", "an empty part"),
        ("s3://bucket/../b", "an empty part, . or .."),
        ("file://clips", "three slashes"),
        ("file:///", "three slashes"),
    ],
)
def test_what_is_no_usable_url_is_refused_without_repeating_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        location_of(text)
    assert "secret" not in str(caught.value).lower()


def test_a_trial_goes_beside_a_folder_of_a_bucket_and_into_a_bucket_itself() -> None:
    assert str(OutputUrl("s3://bucket/clips").beside("sandbox")) == "s3://bucket/clips.sandbox"
    assert str(OutputUrl("s3://bucket").beside("sandbox")) == "s3://bucket/sandbox"


def test_each_url_has_a_readable_journal_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: tmp_path)
    first, second = home_of(OutputUrl("s3://bucket/a-b")), home_of(OutputUrl("s3://bucket/a/b"))
    assert first != second
    assert first.name.startswith("s3-bucket-a-b-")
    assert first.parent == tmp_path / "outputs"
    long = home_of(OutputUrl(f"s3://bucket/{'x' * 500}"))
    assert len(long.name) < 100
    assert homes_of(OutputUrl("s3://bucket/a"), tmp_path / "named") == [tmp_path / "named"]


def test_a_folder_holds_its_journals_itself(tmp_path: Path) -> None:
    single = tmp_path / FOLDER / "generate" / "cat"
    single.mkdir(parents=True)
    assert homes_of(tmp_path) == [tmp_path / FOLDER, single]
    assert is_of_single_clip(single, tmp_path)
    assert not is_of_single_clip(tmp_path / FOLDER, tmp_path)
    assert not is_of_single_clip(single, OutputUrl("s3://bucket"))
