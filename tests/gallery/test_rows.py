from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest
from gallery_pages import (
    ALL_STATES,
    ERROR,
    KEY,
    SIGNATURE,
    TOKEN,
    VIDEO,
    WITHOUT_ATTEMPT,
    Take,
    attempt,
    database,
    enroll,
    page_of,
    record,
    record_batches,
)

from wan_async.gallery.rows import GROUPS, sentence_of
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.sqlite import SqliteJournal


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_row_of_a_stored_clip_has_the_jobs_parameters_its_cost_and_its_files(output: Path) -> None:
    spec = {
        "prompt": "the cat yawns\nand sleeps", "image": "pictures/cat.png", "negative_prompt": "blurry",
        "resolution": "720P", "aspect_ratio": "16:9", "seed": -(2**63) + 1, "label": "cat",
    }  # fmt: skip
    page = page_of(output, Take("a1b2", spec=spec, name="cat", cost=1_234_567_891))
    assert page.rows == [
        {
            "id": "cat",
            "key": "a1b2",
            "group": "stored",
            "state": "stored",
            "parameters": {
                "prompt": "the cat yawns\nand sleeps",
                "negative_prompt": "blurry",
                "image": "cat.png",
                "seed": "-9223372036854775807",
                "resolution": "720P",
                "aspect_ratio": "16:9",
            },
            "task": "501",
            "cost": "$1,234.567891",
            "clips": [{"src": "./cat.mp4", "file": "cat.mp4", "bytes": 1_500_000, "type": "video/mp4"}],
        }
    ]
    assert "1 clip · $1,234.567891 spent" in page.visible
    assert "reserved" not in page.visible


@pytest.mark.parametrize(
    ("state", "group", "label", "error"),
    [
        ("planned", "unfinished", "waiting", None),
        ("rejected", "unfinished", "waiting", "no"),
        ("absent", "unfinished", "waiting", "the connection was closed"),
        ("abandoned", "unfinished", "waiting", "several tasks match"),
        ("intent", "unfinished", "being sent", None),
        ("accepted", "unfinished", "rendering", None),
        ("ended", "unfinished", "to download", None),
        ("failed", "failed", "failed", ERROR),
        ("cancelled", "cancelled", "cancelled", ERROR),
        ("missing", "missing", "missing", ERROR),
        ("unknown", "unknown", "unknown", "the connection was closed"),
        ("quarantined", "unknown", "quarantined", "several tasks match"),
    ],
)
def test_a_job_without_a_clip_has_a_reason(output: Path, state: str, group: str, label: str, error: str | None) -> None:
    page = page_of(output, Take("a", state))
    (row,) = page.rows
    assert (row["group"], row["state"], row["reason"]) == (group, label, error or sentence_of(state))
    assert row["reason"]
    assert "clips" not in row
    assert page.chips == {"": "1", group: "1"}
    assert "0 clips" in page.visible


def test_every_state_has_a_group_and_a_label(output: Path) -> None:
    page = page_of(output, *(Take(state, state) for state in ALL_STATES))
    assert len(page.rows) == len(ALL_STATES)
    assert {row["group"] for row in page.rows} <= set(GROUPS)
    assert len(GROUPS) == 7


def test_jobs_are_in_batch_order_and_counted_by_group(output: Path) -> None:
    takes = [Take("b"), Take("c", "failed", cost=0), Take("a"), Take("d", "accepted"), Take("e", "unknown")]
    page = page_of(output, *takes)
    assert [row["id"] for row in page.rows] == ["b", "c", "a", "d", "e"]
    assert page.chips == {"": "5", "stored": "2", "unfinished": "1", "failed": "1", "unknown": "1"}
    assert "2 clips · $0.10 spent · $0.12 reserved" in page.visible


def test_an_empty_batch_makes_a_page(output: Path) -> None:
    record_batches(output, [])
    page = page_of(output)
    assert page.rows == []
    assert page.chips == {"": "0"}


def test_a_row_has_the_outputs_of_its_own_job_in_order(output: Path) -> None:
    takes = [
        Take("a", files=(("a.mp4", VIDEO), ("a-2.mp4", VIDEO), ("a-3.PNG", "IMAGE/PNG"), ("a-4.bin", None))),
        Take("b", files=(("b.mp4", VIDEO),)),
    ]
    first, second = page_of(output, *takes).rows
    assert [(clip["file"], clip["type"]) for clip in first["clips"]] == [
        ("a.mp4", "video/mp4"), ("a-2.mp4", "video/mp4"), ("a-3.PNG", "image/png"), ("a-4.bin", "")
    ]  # fmt: skip
    assert [clip["file"] for clip in second["clips"]] == ["b.mp4"]


@pytest.mark.parametrize(
    "file",
    [
        "two words.mp4", "100%.mp4", "50%25.mp4", "a#t=1.mp4", "a?b=c&d.mp4", "a;b.mp4", "Übung 猫 🐈.mp4",
        "a'b\"c.mp4", "javascript:alert(1).mp4", "data:text,x.mp4", "//evil.example/x.mp4", "C:\\x.mp4", "<img>.mp4",
        "x\u202e4pm.mp4", "\u0001.mp4", "sub folder/a.mp4", "+.mp4",
    ],
)  # fmt: skip
def test_the_url_of_a_clip_is_a_relative_path_for_any_file_name(output: Path, file: str) -> None:
    (row,) = page_of(output, Take("a", files=((file, VIDEO),))).rows
    (clip,) = row["clips"]
    assert re.fullmatch(r"\./[A-Za-z0-9._~/%-]+", clip["src"])
    assert unquote(clip["src"]) == f"./{file}"
    assert clip["file"] == file


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (None, None),
        ("", None),
        ("cat.png", "cat.png"),
        ("/home/someone/secret plans/cat.png", "cat.png"),
        ("C:\\Users\\someone\\cat.png", "cat.png"),
        (f"https://cdn.example/a/cat.png?Signature={SIGNATURE}", "cat.png"),
        (f"https://cdn.example/cat.png#{SIGNATURE}", "cat.png"),
        (f"https://cdn.example/cat.png?Key=a/b/{SIGNATURE}", "cat.png"),
        (f"https://someone:{SIGNATURE}@cdn.example", None),
        (f"https://someone:{SIGNATURE}@cdn.example?a=/b", None),
        ("https://cdn.example/", None),
        ("odd?name#.png", "odd?name#.png"),
    ],
)
def test_an_image_is_shown_without_folders_credentials_or_query(
    output: Path, image: str | None, shown: str | None
) -> None:
    page = page_of(output, Take("a", spec={"image": image}))
    assert page.rows[0]["parameters"].get("image") == shown
    assert SIGNATURE not in page.text
    assert "someone" not in page.text


def test_no_token_key_or_signature_is_in_the_page(output: Path) -> None:
    page = page_of(output, *(Take(f"job {state}", state) for state in ALL_STATES))
    with closing(sqlite3.connect(output / FOLDER / FILE)) as db:
        journal = "\n".join(db.iterdump())
    for secret in (TOKEN, SIGNATURE):
        assert secret in journal
        assert secret not in page.text
    assert KEY not in page.text
    assert "cdn.example" not in page.text
    assert str(output.parent) not in page.text


def test_a_clip_of_a_job_removed_from_the_batch_is_shown_as_earlier(output: Path) -> None:
    old = Take("old", prompt="the dog barks", spec={"image": "dog.png", "label": "dog"})

    async def steps(journal: SqliteJournal) -> None:
        await enroll(journal, Take("new"), old)
        for take in (old, Take("gone", "failed"), Take("new")):
            await attempt(journal, take)
        await enroll(journal, Take("new"))

    record(output, steps)
    page = page_of(output)
    new, earlier = page.rows
    assert new["id"] == "new"
    assert (earlier["id"], earlier["group"], earlier["state"]) == ("dog", "earlier", "earlier")
    assert earlier["parameters"].items() >= {"prompt": "the dog barks", "image": "dog.png", "seed": "42"}.items()
    assert [clip["file"] for clip in earlier["clips"]] == ["old.mp4"]
    assert "reason" in earlier
    assert page.chips == {"": "2", "stored": "1", "earlier": "1"}
    assert "2 clips · $0.15 spent" in page.visible


def test_a_clip_of_earlier_content_of_a_job_shows_the_parameters_that_were_sent(output: Path) -> None:
    former = Take("cat", content="then", files=(("cat-2.mp4", VIDEO), ("cat-2-2.mp4", VIDEO)))
    record_batches(output, [former], [Take("cat", content="now", prompt="the cat leaps")])
    page = page_of(output)
    new, earlier = page.rows
    assert (new["parameters"]["prompt"], new["group"], new["task"]) == ("the cat leaps", "stored", "502")
    assert [clip["file"] for clip in new["clips"]] == ["cat.mp4"]
    assert (earlier["group"], earlier["task"]) == ("earlier", "501")
    assert earlier["parameters"] == {
        "prompt": "the cat yawns", "negative_prompt": "rain", "seed": "7", "resolution": "720P", "aspect_ratio": "9:16"
    }  # fmt: skip
    assert [clip["file"] for clip in earlier["clips"]] == ["cat-2.mp4", "cat-2-2.mp4"]
    assert SIGNATURE not in page.text


def test_a_clip_is_shown_when_it_is_stored_and_a_cost_when_it_is_known(output: Path) -> None:
    async def steps(journal: SqliteJournal) -> None:
        await enroll(journal, Take("old"), Take("a"))
        for take in (Take("old"), Take("a")):
            await attempt(journal, take)
        await enroll(journal, Take("waits", WITHOUT_ATTEMPT), Take("a"), Take("b"))
        await attempt(journal, Take("b", "accepted"))

    record(output, steps)
    with closing(database(output)) as db, db:
        db.execute("UPDATE attempts SET state = 'ended' WHERE job = 'a'")  # as after its file was deleted
    rows = {row["id"]: row for row in page_of(output).rows}
    assert {key: "clips" in row for key, row in rows.items()} == {"waits": False, "a": False, "b": False, "old": True}
    assert {key: row.get("cost") for key, row in rows.items()} == {
        "waits": None, "a": "$0.05", "b": None, "old": "$0.05"
    }  # fmt: skip


@pytest.mark.parametrize("latest", ["stored", "accepted"])
def test_a_job_that_is_rendered_again_keeps_its_earlier_takes(output: Path, latest: str) -> None:
    takes = [Take("a", files=(("a-2.mp4", VIDEO),)), Take("a", files=(("a-3.mp4", VIDEO),)), Take("a", latest)]
    record_batches(output, takes[:1], takes[1:2], takes[2:])
    page = page_of(output)
    assert [row["task"] for row in page.rows] == ["503", "501", "502"]
    assert [[clip["file"] for clip in row["clips"]] for row in page.rows[1:]] == [["a-2.mp4"], ["a-3.mp4"]]
    assert (page.chips[""], page.chips["earlier"]) == ("3", "2")


def test_a_job_that_reuses_the_clip_of_another_shows_it_once(output: Path) -> None:
    record_batches(output, [Take("old", content="same")], [Take("new", WITHOUT_ATTEMPT, content="same")])
    (row,) = page_of(output).rows
    assert (row["id"], row["group"]) == ("new", "stored")


def test_clips_of_generate_follow_those_of_a_run_and_need_no_run(output: Path) -> None:
    generate = output / FOLDER / "generate"
    record_batches(output, [Take("solo")], home=generate / "solo")
    (generate / "begun").mkdir()
    (generate / "begun" / FILE).touch()
    assert [row["id"] for row in page_of(output).rows] == ["solo"]
    page = page_of(output, Take("a"), Take("b"))
    assert [row["id"] for row in page.rows] == ["a", "b", "solo"]
    assert page.chips == {"": "3", "stored": "3"}
