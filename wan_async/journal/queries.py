"""SQL of the journal and its reports, and the objects that its rows become."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from wan_async.domain.attempt import Attempt, Clip, Unassigned
from wan_async.domain.lifecycle import RECOVERABLE, REPEATABLE, UNANSWERED, State
from wan_async.domain.remote_task import TaskDetail
from wan_async.errors import Unusable
from wan_async.journal.tables import IS_OPEN, sql_list

CLOCK_SECONDS = 600.0
"""The largest difference between the local clock and the service's."""

_RANK = f"""
CASE WHEN state = 'stored' THEN 2 WHEN state = 'missing' THEN 1 WHEN {IS_OPEN} THEN 3 ELSE 0 END DESC, id DESC
"""
"""Orders a job's attempts by which of them decides the job's state: an open one, a stored one, a missing one, then the
latest of the others."""

DECIDING = f"SELECT id FROM attempts WHERE job = j.key AND content = j.content ORDER BY {_RANK} LIMIT 1"
"""The attempt that decides the state of a row `j` of `jobs`."""

RESULTS = f"""
SELECT j.key,
       CASE WHEN a.state IN ({sql_list(REPEATABLE)}) OR a.state IS NULL
            THEN CASE WHEN j.failure IS NULL AND coalesce(a.cost, 0) <= 0 THEN 'planned' ELSE 'failed' END
            ELSE a.state END AS state,
       c.file, a.task_id, a.cost, c.sha256,
       CASE WHEN a.state = 'stored' THEN NULL ELSE coalesce(json_extract(j.failure, '$.message'), a.reason) END
FROM jobs j
LEFT JOIN attempts a ON a.id = ({DECIDING})
LEFT JOIN clips c ON c.attempt = a.id AND c.number = 0
WHERE j.position IS NOT NULL ORDER BY j.position
"""
"""The state of each job of the batch, in batch order; the columns of `reports.Result`."""


def _jobs_in(states: str) -> str:
    return (
        "(SELECT json_group_array(job) FROM (SELECT DISTINCT a.job FROM candidates c "
        f"JOIN attempts a ON a.id = c.attempt WHERE c.task_id = u.task_id AND a.state IN ({states}) ORDER BY a.job))"
    )


UNASSIGNED = f"""
SELECT u.task_id, u.token, u.state, u.task, u.seen_at, u.ended_at, u.clips, u.reason,
       (SELECT a.state FROM attempts a WHERE a.task_id = u.task_id OR a.token = u.token LIMIT 1),
       {_jobs_in("'quarantined', 'abandoned'")}, {_jobs_in("'quarantined'")}
FROM unassigned u ORDER BY u.seen_at, u.rowid
"""
"""Every recorded task, oldest first; `unassigned_of` reads a row."""


def unassigned_of(row: Sequence[Any]) -> Unassigned:
    """A row of `UNASSIGNED`."""
    task_id, token, state, task, seen_at, ended_at, clips, reason, owner, jobs, assignable = row
    return Unassigned(
        task_id=task_id,
        token=token,
        state=state,
        task=TaskDetail.model_validate_json(task),
        seen_at=seen_at,
        ended_at=ended_at,
        clips=[Clip(*clip) for clip in json.loads(clips)],
        reason=reason,
        owner=owner,
        jobs=json.loads(jobs),
        assignable=json.loads(assignable),
    )


JOBS_CALLED = """
SELECT key, CASE ? WHEN key THEN 0 WHEN json_extract(spec, '$.label') THEN 1 ELSE 2 END AS rank
FROM jobs WHERE ? IN (key, json_extract(spec, '$.label'), name) ORDER BY rank, key
"""
"""Keys of jobs by their key (rank 0), label (1) or output name (2), which is given twice."""

UNANSWERED_OF = (
    "SELECT 1 FROM attempts INDEXED BY attempts_content WHERE content = ? AND id <> ? "
    f"AND state IN ({sql_list(UNANSWERED)})"
)
"""Whether another attempt of a content is unanswered: parameters are the content, and the attempt's own id."""


def todo_query(*, retry_failed: bool, rerender: bool) -> tuple[str, list[str | int]]:
    """The query of `Journal.todo`, and its parameters."""
    final: list[str] = [*RECOVERABLE, *([] if retry_failed else [State.CANCELLED, "billed"])]
    final = [state for state in final if state != State.MISSING] if rerender else [*final, State.GIVEN_UP]
    query = (
        "SELECT key FROM jobs j WHERE position IS NOT NULL AND (sticky = 0 OR ? = 1) AND coalesce((SELECT "
        "CASE WHEN a.state = 'failed' AND a.cost > 0 THEN 'billed' ELSE a.state END "
        f"FROM attempts a WHERE a.job = j.key AND a.content = j.content ORDER BY {_RANK} LIMIT 1), '') "
        f"NOT IN ({marks_for(final)}) ORDER BY position"
    )
    return query, [int(retry_failed), *final]


ATTEMPT_COLUMNS = (
    "id, job, number, content, state, form, image, name, reserved, cost, high_id, intent_at, closed_at, "
    "accepted_at, ended_at, task_id, token, adopted, status, pexit, outputs, reason, recheck"
)


ALL = 2**62
"""A LIMIT that is none."""


def marks_for(values: Sequence[object]) -> str:
    """A question mark for each value, separated by commas."""
    return ", ".join("?" * len(values))


def attempt_of(row: tuple[Any, ...]) -> Attempt:
    """Makes an attempt of a row with `ATTEMPT_COLUMNS`.

    Raises:
        Unusable: the row can't be read.
    """
    values = list(row)
    try:
        values[4] = State(values[4])
        values[5] = json.loads(values[5])
        values[20] = [(str(kind), size, str(url)) for kind, size, url in json.loads(values[20] or "[]")]
    except (ValueError, TypeError):  # a journal of the first version has no checksums
        raise Unusable(f"the journal is damaged: attempt {row[0]} at job {row[1]} can't be read") from None
    values[17] = bool(values[17])
    values[22] = bool(values[22])
    return Attempt(**dict(zip(ATTEMPT_COLUMNS.split(", "), values, strict=True)))


_WIDTH = len(ATTEMPT_COLUMNS.split(", "))
STORED = f"""
SELECT {", ".join(f"a.{column}" for column in ATTEMPT_COLUMNS.split(", "))},
       c.number, c.file, c.etag, c.sha256, c.bytes, c.content_type
FROM attempts a JOIN clips c ON c.attempt = a.id
WHERE a.id IN (
    SELECT b.id FROM attempts b JOIN jobs j ON j.key = b.job AND j.content = b.content AND j.position IS NOT NULL
    WHERE b.state = 'stored' AND b.id > ? ORDER BY b.id LIMIT ?
)
ORDER BY a.id, c.number
"""
"""The stored clips of the batch's jobs: parameters are the attempt id that theirs are above, and the most attempts."""


def stored_of(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Attempt, list[Clip]]]:
    """The rows of `STORED`, by attempt."""
    found: dict[int, tuple[Attempt, list[Clip]]] = {}
    for row in rows:
        if row[0] not in found:
            found[row[0]] = (attempt_of(row[:_WIDTH]), [])
        found[row[0]][1].append(Clip(*row[_WIDTH:]))
    return list(found.values())
