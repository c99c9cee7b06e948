"""Interpretation of responses: an answer, an error, or the outcome of a Run. No I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from pydantic import ValidationError

from wan_async import errors
from wan_async.domain.remote_task import TaskId, TaskToken
from wan_async.wiro.error_codes import (
    CODE_AT_LIMIT,
    CODE_OUT_OF_FUNDS,
    NO_ENDPOINT,
    NO_TASK,
    OUT_OF_MONEY,
    SIGN_IN,
    STOPPING,
    VALIDATION_PREFIXES,
)
from wan_async.wiro.schemas import Answer


class Unparsable(ValueError):
    """The body isn't the JSON of an answer: truncated, HTML, or malformed."""


def parse_answer(body: bytes) -> Answer:
    """Parse an answer.

    Args:
        body: the response's body. The JSON parser limits its depth; the caller limits its size.

    Raises:
        Unparsable: it isn't an answer.
    """
    try:
        try:
            return Answer.model_validate_json(body)
        except ValidationError as error:
            if not any(word in str(error) for word in ("hex escape", "surrogate")):
                raise
            # a lone surrogate: a JavaScript server cut the text within a pair
            whole = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
            return Answer.model_validate_json(whole)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise Unparsable(str(error)) from None
        raise Unparsable(error.errors(include_url=False, include_input=False)[0]["msg"]) from None


def read_answer(status: int, body: bytes, retry_after_seconds: float | None = None) -> Answer:
    """Interpret the response to a request that may be repeated, which is every one but Run.

    A response without the service's envelope (of a proxy, a firewall, a captive portal) says nothing about credentials,
    models or tasks, whatever its status (WIRO_API 2).

    Args:
        status: the HTTP status.
        body: the response's body.
        retry_after_seconds: the value of `Retry-After`, if there was one.

    Raises:
        errors.TryLater: rate limit, a fault of the server, or a response without the service's envelope.
        errors.NotFound: code 1, 404, or a message to that effect.
        errors.AtLimit: code 96.
        errors.OutOfFunds: code 97, or a team's spending limit.
        errors.StopBatch: credentials (401, 403, codes 98 and 99), or a refusal of the whole account.
        errors.JobFailed: any other refusal of this request.
    """
    if status == 429:
        raise errors.TryLater("the project's rate limit is reached", after_seconds=retry_after_seconds, status=status)
    if status == 408 or status >= 500:
        raise errors.TryLater(f"the server answered {status}", after_seconds=retry_after_seconds, status=status)
    try:
        answer = parse_answer(body)
    except Unparsable as error:
        raise errors.TryLater(_not_the_service(status, body, str(error)), status=status) from None
    if status < 300 and (answer.result or (not answer.has_envelope and answer.tasklist)):
        return answer
    if not answer.has_envelope or 300 <= status < 400:
        raise errors.TryLater(_not_the_service(status, body, "no envelope"), status=status)
    raise _refusal(status, answer)


def _not_the_service(status: int, body: bytes, why: str) -> str:
    """Describe a response that isn't an answer of the service, for messages."""
    if 300 <= status < 400:
        return f"HTTP {status}: the API redirects, and credentials are not sent on; is the base URL right?"
    text = body[:4096].decode("utf-8", "replace")
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        said = " ".join(title.group(1).split())[:80] if title else ""
        hint = "; is the base URL right?" if status == 404 else ""
        return f"HTTP {status} with a web page{f' ({said})' if said else ''} instead of the API's answer{hint}"
    what = "an empty body" if not body else f"a body that could not be read ({why})"
    return f"HTTP {status} with {what} instead of the API's answer"


def _says(message: str, sentences: tuple[str, ...]) -> bool:
    """Whether a message contains one of the sentences, ignoring case and punctuation."""
    plain = " ".join(re.sub(r"[^a-z0-9\s]", "", message.lower()).split())
    return any(sentence in plain for sentence in sentences)


def _refusal(status: int, answer: Answer) -> errors.WanError:
    said, code = answer.message, answer.code
    if status in (401, 403) or code in (98, 99) or _says(said, SIGN_IN):
        refused = f"the API refuses the credentials: {said or status}"
        invalid = "is not valid" in said
        if invalid or "requires signature" in said:
            refused += " (is the secret right? The project's kind, signature based or API key only, can be switched)"
        return errors.StopBatch(refused, authentication=True, nonce=invalid)
    if code == CODE_AT_LIMIT:
        return errors.AtLimit(said or "the account's limit of concurrent tasks is reached")
    if code == CODE_OUT_OF_FUNDS or _says(said, OUT_OF_MONEY):
        return errors.OutOfFunds(said or "the balance is insufficient")
    if _says(said, STOPPING):
        return errors.StopBatch(f"the service refuses: {said}")
    if _says(said, NO_ENDPOINT):
        return errors.NoSuchAddress(f"the API knows no such address ({said}): is the base URL right?")
    if code == 1 or status == 404 or _says(said, NO_TASK):
        return (errors.NoSuchAddress if "accessible" in said else errors.NotFound)(said or "not found")
    if code or status >= 400 or said.startswith(VALIDATION_PREFIXES):
        return errors.JobFailed(said or f"refused ({code or status})")
    return errors.TryLater(f"the server reports a fault: {said or 'no reason given'}", status=status, said=said)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task exists. Its id or its token may be missing, never both."""

    task_id: TaskId | None
    token: TaskToken | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """No task was made; `error` says what to do."""

    error: errors.WanError


@dataclass(frozen=True, slots=True)
class Unclear:
    """The answer doesn't say whether a task was made.

    Attributes:
        reason: a description of the answer, for messages.
        proofs: after this number of proven absences in a row, each after the same answer and with no Run accepted in
            between, the answer counts as a refusal. Fewer for a message of the service than for another's page.
    """

    reason: str
    proofs: int


TEXT_PROOFS, PAGE_PROOFS, FAULT_PROOFS = 2, 5, 20
DEFINITE_REFUSALS = frozenset({400, 401, 403, 404, 413, 429})


def judge_run(status: int, body: bytes, retry_after_seconds: float | None = None) -> Accepted | Refused | Unclear:
    """Interpret the response to Run: whatever isn't known to be a refusal may have made a task."""
    proofs = PAGE_PROOFS if 300 <= status < 500 and status != 408 else FAULT_PROOFS
    try:
        answer = parse_answer(body)
    except Unparsable as error:
        return Unclear(_not_the_service(status, body, str(error)), proofs)
    task_id = TaskId(answer.taskid) if answer.taskid and answer.taskid != "0" else None  # "0" means "none" in this API
    if task_id or answer.socketaccesstoken:
        return Accepted(task_id, TaskToken(answer.socketaccesstoken) if answer.socketaccesstoken else None)
    if not answer.has_envelope:
        return Unclear(_not_the_service(status, body, "no envelope"), proofs)
    said = answer.message
    about_run = said.startswith(VALIDATION_PREFIXES) or _says(said, STOPPING + OUT_OF_MONEY + SIGN_IN)
    refused = answer.result is False and (answer.code or (answer.code == 0 and about_run))
    if status in DEFINITE_REFUSALS or (status == 200 and refused):
        return Refused(_run_refusal(status, body, retry_after_seconds))
    plain = status == 200 and answer.result is False and bool(said)
    return Unclear(f"HTTP {status}: {said or 'no task, no refusal'}", TEXT_PROOFS if plain else proofs)


def _run_refusal(status: int, body: bytes, retry_after_seconds: float | None) -> errors.WanError:
    try:
        read_answer(status, body, retry_after_seconds)
    except errors.NotFound as error:  # the model itself is refused, and with it every job
        return errors.StopBatch(f"the model can't be run: {error.message}")
    except errors.WanError as error:
        return error
    return errors.JobFailed(f"the API refused the request ({status})")
