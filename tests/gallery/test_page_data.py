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
    sha256_of,
)

from wan_async.domain.lifecycle import JOB_STATES, LIFECYCLE, State
from wan_async.gallery.page_data import EARLIER, GROUPS
from wan_async.gallery.source_images import Source, Sources
from wan_async.gallery.texts import TEXTS
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
            "shot": {
                "shot": 0,
                "texts": {"prompt": "the cat yawns\nand sleeps", "negative_prompt": "blurry"},
                "image": "cat.png",
                "lost": True,
            },
            "values": {"resolution": "720P", "aspect_ratio": "16:9", "seed": "-9223372036854775807"},
            "task": "501",
            "cost": 1_234_567_891,
            "seconds": 0.0,
            "at": 1,
            "clips": [{"file": "cat.mp4", "bytes": 1_500_000, "sha256": sha256_of(1)}],
        }
    ]
    assert page.links == ["./cat.mp4"]
    assert "1 clip · $1,234.567891 spent" in page.visible
    assert "reserved" not in page.visible


def test_parameters_say_how_they_are_called_and_what_they_take(output: Path) -> None:
    prompt, *others = page_of(output, Take("a")).facts["parameters"]
    assert (prompt["name"], prompt["kind"]) == ("prompt", "text")
    by_name = {each["name"]: each for each in others}
    assert by_name["negative_prompt"]["label"] == "avoids"
    assert by_name["resolution"]["choices"] == ["480P", "580P", "720P"]
    assert by_name["resolution"]["price"] is True
    assert by_name["seed"]["default"] == "42"


@pytest.mark.parametrize(
    ("state", "group", "word", "error"),
    [
        ("planned", "waiting", "waiting", None),
        ("rejected", "waiting", "waiting", "no"),
        ("absent", "waiting", "waiting", "the connection was closed"),
        ("abandoned", "waiting", "waiting", "several tasks match"),
        ("intent", "waiting", "being sent", None),
        ("accepted", "waiting", "rendering", None),
        ("ended", "waiting", "to download", None),
        ("failed", "failed", "failed", ERROR),
        ("cancelled", "cancelled", "cancelled", ERROR),
        ("missing", "missing", "missing", ERROR),
        ("unknown", "unknown", "unknown", "the connection was closed"),
        ("quarantined", "unknown", "quarantined", "several tasks match"),
    ],
)
def test_a_job_without_a_clip_has_a_reason(output: Path, state: str, group: str, word: str, error: str | None) -> None:
    page = page_of(output, Take("a", state))
    (row,) = page.rows
    about = page.facts["states"][row["state"]]
    assert (about["group"], row.get("reason")) == (group, error)
    assert TEXTS["states"][row["state"]]["word"] == word
    assert "clips" not in row
    assert page.links == []
    assert f"0 clips · 1 {'waiting' if group == 'waiting' else 'without a clip'} · $" in page.visible


def test_every_state_has_a_group_and_a_word(output: Path) -> None:
    page = page_of(output, *(Take(state, state) for state in ALL_STATES))
    assert len(page.rows) == len(ALL_STATES)
    states = page.facts["states"]
    assert {about["group"] for about in states.values()} == set(GROUPS) == TEXTS["groups"].keys()
    assert len(GROUPS) == 7


def test_every_state_has_a_word_and_the_meaning_that_it_has_everywhere() -> None:
    assert TEXTS["states"].keys() == {EARLIER, *JOB_STATES}
    assert all(about["word"] for about in TEXTS["states"].values())
    for state in set(JOB_STATES) - {State.STORED}:  # which the clip shows
        assert TEXTS["states"][state]["meaning"] == LIFECYCLE[state].meaning


def test_jobs_are_in_batch_order(output: Path) -> None:
    takes = [Take("b"), Take("c", "failed", cost=0), Take("a"), Take("d", "accepted"), Take("e", "unknown")]
    page = page_of(output, *takes)
    assert [row["id"] for row in page.rows] == ["b", "c", "a", "d", "e"]
    assert "2 clips · 2 without a clip · 1 waiting · $0.10 spent · $0.12 reserved" in page.visible


def test_takes_with_the_same_image_and_texts_are_of_one_shot(output: Path) -> None:
    takes = [
        Take("a", spec={"seed": 1}),
        Take("b", spec={"seed": 2, "resolution": "720P"}),
        Take("c", spec={"negative_prompt": "rain"}),
        Take("d", spec={"image": "cat.png"}),
        Take("e", prompt="the dog barks"),
        Take("f", spec={"seed": 3}),
    ]
    assert [row["shot"]["shot"] for row in page_of(output, *takes).rows] == [0, 0, 1, 2, 3, 0]


def test_an_empty_batch_makes_a_page(output: Path) -> None:
    record_batches(output, [])
    page = page_of(output)
    assert page.rows == []
    assert "0 clips" in page.visible


def test_a_row_has_the_outputs_of_its_own_job_in_order(output: Path) -> None:
    takes = [
        Take("a", files=(("a.mp4", VIDEO), ("a-2.mp4", VIDEO), ("a-3.PNG", "IMAGE/PNG"), ("a-4.bin", None))),
        Take("b", files=(("b.mp4", VIDEO),)),
    ]
    first, second = page_of(output, *takes).rows
    assert [(clip["file"], clip.get("type"), clip["sha256"]) for clip in first["clips"]] == [
        ("a.mp4", None, sha256_of(1, 0)), ("a-2.mp4", None, sha256_of(1, 1)), ("a-3.PNG", "image/png", sha256_of(1, 2)),
        ("a-4.bin", None, sha256_of(1, 3)),
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
    page = page_of(output, Take("a", files=((file, VIDEO),)))
    (clip,) = page.rows[0]["clips"]
    assert clip["file"] == file
    for link in (clip.get("src", f"./{file}"), *page.links):
        assert re.fullmatch(r"\./[A-Za-z0-9._~/%-]+", link)
        assert unquote(link) == f"./{file}"


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
    shot = page.rows[0]["shot"]
    assert shot.get("image") == shown
    assert "src" not in shot
    assert ("lost" in shot) is (bool(image) and image != "https://cdn.example/")
    assert SIGNATURE not in page.text
    assert "someone" not in page.text


def test_a_url_without_credentials_and_query_is_kept_for_batch_files(output: Path) -> None:
    url = "https://pictures.example/a/cat.png"
    assert page_of(output, Take("a", spec={"image": url})).rows[0]["shot"] == {
        "shot": 0, "texts": {"prompt": "the cat yawns"}, "image": "cat.png", "path": url
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cat.png", "two words & 100%#?.png", "猫.png"])
def test_an_image_that_exists_is_shown_relative_to_the_page(tmp_path: Path, output: Path, name: str) -> None:
    image = tmp_path / "pictures" / name
    image.parent.mkdir()
    image.touch()
    shot = page_of(output, Take("a", spec={"image": str(image)})).rows[0]["shot"]
    assert shot["image"] == name
    assert re.fullmatch(r"\./[A-Za-z0-9._~/%-]+", shot["src"])
    assert (output / unquote(shot["src"])).resolve() == image
    assert "path" not in shot
    assert "lost" not in shot


def test_copies_of_images_stand_for_them(tmp_path: Path, output: Path) -> None:
    sources = Sources(output, {"/somewhere/a cat.png": "images/1 cat.png"})
    assert sources.find("/somewhere/a cat.png") == Source("a cat.png", "./images/1%20cat.png", "images/1 cat.png")
    assert sources.find("/somewhere/b.png") == Source("b.png")


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
    assert (earlier["id"], earlier["state"]) == ("dog", "earlier")
    assert earlier["shot"].items() >= {"texts": {"prompt": "the dog barks"}, "image": "dog.png"}.items()
    assert earlier["values"]["seed"] == "42"
    assert [clip["file"] for clip in earlier["clips"]] == ["old.mp4"]
    assert "2 clips · $0.15 spent" in page.visible


def test_a_clip_of_earlier_content_of_a_job_shows_the_parameters_that_were_sent(output: Path) -> None:
    former = Take("cat", content="then", files=(("cat-2.mp4", VIDEO), ("cat-2-2.mp4", VIDEO)))
    record_batches(output, [former], [Take("cat", content="now", prompt="the cat leaps"), Take("dog")])
    page = page_of(output)
    new, earlier, dog = page.rows  # an earlier take follows its job
    assert (new["shot"]["texts"]["prompt"], new["task"]) == ("the cat leaps", "502")
    assert [clip["file"] for clip in new["clips"]] == ["cat.mp4"]
    assert (earlier["state"], earlier["task"]) == ("earlier", "501")
    assert earlier["shot"]["texts"] == {"prompt": "the cat yawns", "negative_prompt": "rain"}
    assert earlier["values"] == {"resolution": "720P", "aspect_ratio": "9:16", "seed": "7"}
    assert [clip["file"] for clip in earlier["clips"]] == ["cat-2.mp4", "cat-2-2.mp4"]
    assert dog["id"] == "dog"
    assert SIGNATURE not in page.text


def test_an_earlier_take_with_other_parameters_is_in_the_shot_of_its_job(tmp_path: Path, output: Path) -> None:
    image = tmp_path / "cat.png"
    image.touch()
    spec = {"image": str(image), "negative_prompt": "rain"}
    record_batches(output, [Take("cat", content="then")], [Take("cat", content="now", spec=spec)])
    with closing(database(output)) as db, db:
        db.execute("UPDATE attempts SET image = 'sha256:c0ffee'")
        db.execute("INSERT INTO images VALUES (?, 0, 0, 'c0ffee')", (str(image),))
    new, earlier = page_of(output).rows
    assert earlier["state"] == "earlier"
    assert new["shot"] == earlier["shot"]


def test_a_stored_clip_is_shown_although_a_later_attempt_failed(output: Path) -> None:
    record_batches(output, [Take("a")], [Take("a", "failed")])
    (row,) = page_of(output).rows
    assert [clip["file"] for clip in row["clips"]] == ["a.mp4"]
    assert "state" not in row


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
    assert {key: row.get("cost") for key, row in rows.items()} == {"waits": None, "a": 50_000, "b": None, "old": 50_000}


@pytest.mark.parametrize("latest", ["stored", "accepted"])
def test_a_job_that_is_rendered_again_keeps_its_earlier_takes(output: Path, latest: str) -> None:
    takes = [Take("a", files=(("a-2.mp4", VIDEO),)), Take("a", files=(("a-3.mp4", VIDEO),)), Take("a", latest)]
    record_batches(output, takes[:1], takes[1:2], takes[2:])
    page = page_of(output)
    assert [row["task"] for row in page.rows] == ["503", "501", "502"]
    assert [[clip["file"] for clip in row["clips"]] for row in page.rows[1:]] == [["a-2.mp4"], ["a-3.mp4"]]
    assert [row.get("state") for row in page.rows[1:]] == ["earlier", "earlier"]


def test_a_job_that_reuses_the_clip_of_another_shows_it_once(output: Path) -> None:
    record_batches(output, [Take("old", content="same")], [Take("new", WITHOUT_ATTEMPT, content="same")])
    (row,) = page_of(output).rows
    assert (row["id"], "state" in row) == ("new", False)


def test_clips_of_generate_follow_those_of_a_run_and_need_no_run(output: Path) -> None:
    generate = output / FOLDER / "generate"
    record_batches(output, [Take("solo")], home=generate / "solo")
    (generate / "begun").mkdir()
    (generate / "begun" / FILE).touch()
    assert [row["id"] for row in page_of(output).rows] == ["solo"]
    page = page_of(output, Take("a"), Take("b"))
    assert [row["id"] for row in page.rows] == ["a", "b", "solo"]
    assert "3 clips" in page.visible
