"""Wiro's language, spoken without I/O: signature, requests, answers, tasks, prices, socket messages.

What is stated here about the service comes from its public API documentation and the model's page. Three rules:

- The service is tolerant, so are we: numbers come as strings or numbers, objects as JSON in strings, lists as null, and
  unknown fields and statuses at any time. What is not understood is kept, never refused.
- Failures usually arrive with HTTP 200. `read_answer` turns each into the error that says what to do. `judge_run` alone
  decides about Run, because that one costs money: `Accepted` (a task exists), `Refused` (certainly none does), or
  `Unclear` (nobody knows yet).
- Amounts are integer micro-dollars: a budget must add up.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Annotated, Any, Literal, NewType, get_args
from urllib.parse import urlsplit

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from wan_async import errors

OWNER = "Wan-AI"
PROJECT = "Wan2.2-TI2V-5B-Image-to-Video-Fast"
MODEL = f"{OWNER}/{PROJECT}"
BASE_URL = "https://api.wiro.ai/v1"
SOCKET_URL = "wss://socket.wiro.ai/v1"

Resolution = Literal["480P", "580P", "720P"]
AspectRatio = Literal["Default", "16:9", "9:16", "1:1"]
RESOLUTIONS: tuple[str, ...] = get_args(Resolution)
ASPECT_RATIOS: tuple[str, ...] = get_args(AspectRatio)

TaskId = NewType("TaskId", str)
TaskToken = NewType("TaskToken", str)

UPLOAD_LIMIT_BYTES = 100_000_000
"""File Upload takes 100 MB at most (Wiro's API documentation)."""
LIST_PAGE = 100
"""Task/List answers 100 tasks a page at most (Wiro's API documentation)."""

CODE_AT_LIMIT = 96
CODE_OUT_OF_FUNDS = 97
VALIDATION_PREFIXES = ("Request parameter", "Request files")
"""How a code 0 message begins when it is about the request itself, so that certainly no task was made."""
STOPPING = (
    "account has been suspended",
    "you dont have any permission",
    "model is not available for your team",
    "model is not allowed in your team",
)
"""What a code 0 message says, normalised, when it refuses every Run of the account (Wiro's API documentation)."""
OUT_OF_MONEY = ("team spend limit has been reached", "personal spend limit in this team has been reached")
"""Likewise, when a limit of the team's spending is reached: as good as error 97."""
SIGN_IN = ("sign in to run this model",)
NO_TASK = ("tasknotfounded", "tasknotexist", "there is no task")
"""How the service denies a task with code 0, normalised."""
NO_ENDPOINT = ("error parsing url",)


def micros(amount: object) -> int | None:
    """US dollars as the wire has them (`"0.003510000000"`, `0.05`) in micro-dollars; None for what is no amount."""
    if amount is None or isinstance(amount, bool):
        return None
    try:
        value = Decimal(str(amount).strip())
    except (InvalidOperation, ValueError):
        return None
    if not value.is_finite() or value.adjusted() >= 9:
        return None
    return int((value * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def usd(amount: int) -> Decimal:
    """Micro-dollars as US dollars, exactly, with two decimals at least: 50000 is `0.05`, 3510 is `0.00351`."""
    value = Decimal(amount).scaleb(-6)
    return next(short for places in range(2, 7) if (short := value.quantize(Decimal(1).scaleb(-places))) == value)


def signature(key: str, secret: str, nonce: str) -> str:
    """The `x-signature` header: lower-case hex HMAC-SHA256 of secret + nonce, keyed by the API key (Wiro's docs)."""
    return hmac.new(key.encode(), (secret + nonce).encode(), hashlib.sha256).hexdigest()


def auth_headers(key: str, secret: str | None, nonce: int) -> dict[str, str]:
    """The headers that authenticate one request; without a secret the project is of the key-only kind."""
    if secret is None:
        return {"x-api-key": key}
    text = str(nonce)
    return {"x-api-key": key, "x-nonce": text, "x-signature": signature(key, secret, text)}


def next_nonce(last: int, now: float) -> int:
    """A nonce above every earlier one: unix microseconds, or one more than the last where the clock did not move.

    Microseconds stay below 2^53, so that a JavaScript server can tell two neighbours apart.
    """
    return max(last + 1, int(now * 1_000_000))


def is_local_host(host: str) -> bool:
    """Whether `host` names this machine by a literal loopback address or as `localhost`."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_url(url: str, what: str, schemes: tuple[str, str] = ("https", "http")) -> str:
    """`url` without a trailing slash, if credentials may be sent there.

    Args:
        url: the base URL of the API, or the address of the socket.
        what: how to call it in the message, usually the name of the variable that sets it.
        schemes: the secure scheme and its plain sibling, which is good for loopback hosts alone.

    Raises:
        errors.InvalidBatch: if it is no such URL, or would carry credentials in plain text.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        if not url.isprintable() or " " in url or "\\" in url:  # parsers differ about these, so also about the host
            raise ValueError("spaces, control characters and backslashes have no place in it")
    except ValueError as error:
        raise errors.InvalidBatch([errors.Problem(what, f"{url!r} is not a URL: {error}")]) from None
    secure, plain = schemes
    if parts.scheme not in schemes or not host:
        raise errors.InvalidBatch([errors.Problem(what, f"{url!r} is not a {secure}:// URL")])
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise errors.InvalidBatch([errors.Problem(what, "no user, query or fragment belongs into this URL")])
    if parts.scheme == plain and not is_local_host(host):
        raise errors.InvalidBatch(
            [errors.Problem(what, f"{url!r} would send your API key in plain text: use {secure}:// (plain {plain}:// "
                                  "is accepted for this machine alone)")]
        )  # fmt: skip
    return url.rstrip("/")


def origin(url: str) -> str:
    """Scheme, host and port of a URL, normalised: what credentials and a journal belong to."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80, "wss": 443, "ws": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}"


@dataclass(frozen=True, slots=True)
class Parameters:
    """The six parameters of our model, as they go over the wire (the model's page). All are text."""

    prompt: str
    image_url: str = ""
    negative_prompt: str = ""
    resolution: str = "480P"
    aspect_ratio: str = "Default"
    seed: str = "42"

    def form(self) -> dict[str, str]:
        """All six by the service's names, defaults included: what is not sent can't be compared later."""
        return {
            "inputImageUrl": self.image_url,
            "prompt": self.prompt,
            "negativePrompt": self.negative_prompt,
            "resolution": self.resolution,
            "aspectRatio": self.aspect_ratio,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One POST of the API: a path below the base URL, and a JSON body. `safe` ones may be repeated at will."""

    path: str
    body: Mapping[str, str] = field(repr=False)
    safe: bool = True


def run_request(parameters: Parameters, callback_url: str = "") -> Request:
    """Run as JSON. It costs money and is not idempotent."""
    body = parameters.form() | ({"callbackUrl": callback_url} if callback_url else {})
    return Request(f"/Run/{MODEL}", body, safe=False)


def detail_request(task: TaskId | None, token: TaskToken | None) -> Request:
    """Task/Detail, by token where there is one (it needs no project), else by id."""
    return Request("/Task/Detail", {"tasktoken": token} if token else {"taskid": task or ""})


def list_request(start: int = 0, limit: int = LIST_PAGE) -> Request:
    """Task/List: the project's own tasks of our model, newest first."""
    body = {
        "type": "model",
        "sort": "id",
        "order": "DESC",
        "start": str(start),
        "limit": str(limit),
        "modelName": MODEL,
    }
    return Request("/Task/List", body)


def cancel_request(task: TaskId) -> Request:
    """Task/Cancel, for a task that is still queued."""
    return Request("/Task/Cancel", {"taskid": task}, safe=False)


def kill_request(task: TaskId | None, token: TaskToken | None) -> Request:
    """Task/Kill, for a task that runs."""
    return Request("/Task/Kill", {"socketaccesstoken": token} if token else {"taskid": task or ""}, safe=False)


def delete_request(token: TaskToken) -> Request:
    """Task/InputOutputDelete: removes the files of a finished task; idempotent."""
    return Request("/Task/InputOutputDelete", {"tasktoken": token})


def tool_request() -> Request:
    """Tool/Detail of our model: its parameters and prices."""
    return Request("/Tool/Detail", {"slugowner": OWNER, "slugproject": PROJECT})


UPLOAD_PATH = "/File/Upload"


def _json_in_text(value: object) -> object:
    """Objects and arrays arrive as such or as JSON in a string; what isn't JSON is left as it is."""
    if isinstance(value, str | bytes):
        try:
            return pydantic_core.from_json(value)
        except ValueError:
            return value
    return value


def _mapping(value: object) -> object:
    value = _json_in_text(value)
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> object:
    value = _json_in_text(value)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case float():
            return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else ""
        case int():
            return str(value)
    return ""


def _maybe_text(value: object) -> str | None:
    return None if isinstance(value, bool) else _text(value) or None


def _truth(value: object) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(_text(value).lower())


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < 1e18 else None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 0 else None


def _dollars(value: int | None) -> str | None:
    return None if value is None else f"{usd(value):f}"  # as the service has it, to be read again


Text = Annotated[str, BeforeValidator(_text)]
MaybeText = Annotated[str | None, BeforeValidator(_maybe_text)]
Truth = Annotated[bool | None, BeforeValidator(_truth)]
Number = Annotated[float | None, BeforeValidator(_number)]
Count = Annotated[int | None, BeforeValidator(_count)]
Micros = Annotated[int | None, BeforeValidator(micros), PlainSerializer(_dollars, when_used="json")]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Output(_Wire):
    """A file that a task made.

    Attributes:
        name: the server's word for it; never a path.
        size: the announced length in bytes, None if none was announced.
    """

    id: Text = ""
    name: Text = ""
    contenttype: Text = ""
    size: Count = None
    url: Text = ""


class Task(_Wire):
    """A remote task as Task/Detail, List, Cancel and Kill show it. Times are unix seconds, 0 or None = not yet.

    Attributes:
        id: the task's number, as text.
        socketaccesstoken: the secret by which anyone may ask for the task.
        parameters: the request's parameters as the service echoes them; possibly `{}`, possibly rewritten.
        pexit: the exit code of the process, None if absent.
        totalcost: what it cost, in micro-dollars.
        projectid: the project that it is billed to, None if it isn't shown.
    """

    id: Text = ""
    uuid: Text = ""
    socketaccesstoken: Text = Field(default="", repr=False)
    parameters: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(default_factory=dict)
    status: Text = ""
    pexit: MaybeText = None
    debugoutput: Text = ""
    debugerror: Text = ""
    createtime: Number = None
    starttime: Number = None
    endtime: Number = None
    elapsedseconds: Number = None
    cps: Micros = None
    totalcost: Micros = None
    projectid: MaybeText = None
    outputs: Annotated[list[Output], BeforeValidator(_sequence)] = Field(default_factory=list)


class Ending(Enum):
    """How a task ended, after Task/Detail. `UNDECIDED`: it has ended, and shows neither exit code nor outputs yet."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDECIDED = "undecided"


TASK_ERROR = "task_error"
"""A failure before execution that awaits recovery or a requeue: it doesn't close the task (WIRO_API 4)."""


def ending(task: Task) -> Ending | None:
    """How the task ended; None while it runs, which every unknown status counts as.

    `task_end` is not the end: outputs exist only at `task_postprocess_end`. Nor is `task_error` (WIRO_API 4).
    """
    match task.status:
        case "task_postprocess_end":
            if task.pexit is None:  # it may lag behind the status, and so may the outputs
                return Ending.SUCCEEDED if task.outputs else Ending.UNDECIDED
            return Ending.SUCCEEDED if task.pexit == "0" else Ending.FAILED
        case "task_cancel":
            return Ending.CANCELLED
    return None


class Fault(_Wire):
    """An entry of `errors`: older answers have plain strings there."""

    code: Count = None
    message: Text = ""


def _faults(value: object) -> object:
    value = _json_in_text(value)
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [item if isinstance(item, dict) else {"code": 0, "message": _text(item)} for item in items]


class UploadedFile(_Wire):
    """A file that File/Upload took; its `url` then serves as `inputImageUrl`."""

    id: Text = ""
    name: Text = ""
    contenttype: Text = ""
    size: Count = None
    url: Text = ""


class Price(_Wire):
    """An entry of a tool's price list, in USD; it applies where each of `inputs` equals the job's parameter."""

    inputs: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(default_factory=dict)
    price: Micros = None
    priceMethod: Text = ""  # noqa: N815 - the service's own name for it


class Tool(_Wire):
    """What the service says of a model: how it is priced. `cps` and `approximatelycost` are micro-dollars."""

    dynamicprice: Annotated[list[Price], BeforeValidator(_sequence)] = Field(default_factory=list)
    cps: Micros = None
    approximatelycost: Micros = None

    def estimate(self, parameters: Parameters, processing_seconds: float | None = None) -> int | None:
        """What one task with these parameters should cost, in micro-dollars, rounded up; None if nobody can say.

        Several entries may apply: the dearest counts, since this guards a budget.

        Args:
            parameters: the job's, as sent.
            processing_seconds: how long such tasks take, if that is known; prices by the second need it, or else the
                service's own `approximatelycost`.
        """
        form = parameters.form()
        applying = [p for p in self.dynamicprice if all(form.get(k) == _text(v) for k, v in p.inputs.items())]
        if self.dynamicprice and not applying:
            return self.approximatelycost
        if not applying:
            return _by_the_second(self.cps, processing_seconds, self.approximatelycost)
        found = [self._one(price, processing_seconds) for price in applying]
        return max(known) if len(known := [cost for cost in found if cost is not None]) == len(found) else None

    def _one(self, price: Price, processing_seconds: float | None) -> int | None:
        """What the entry comes to; None if it isn't understood, which is never 0."""
        if any((price.model_extra or {}).get(name) for name in ("priceExtra", "priceInput")):
            return None
        match price.priceMethod:
            case "cpr" | "cpo":  # our model makes one output a task
                return price.price
            case "cps":
                return _by_the_second(price.price, processing_seconds, self.approximatelycost)
            case "cp-outputVideoLength":  # how long the clip will be is the service's to estimate
                return self.approximatelycost
        return None


def _by_the_second(per_second: int | None, seconds: float | None, otherwise: int | None) -> int | None:
    if per_second is None or seconds is None:
        return otherwise
    return int((Decimal(per_second) * Decimal(seconds)).to_integral_value(ROUND_CEILING))


class Answer(_Wire):
    """Any answer of the API: the envelope, and whichever of the payloads it carries."""

    result: Truth = None
    errors: Annotated[list[Fault], BeforeValidator(_faults)] = Field(default_factory=list)
    taskid: MaybeText = None
    socketaccesstoken: MaybeText = Field(default=None, repr=False)
    total: Count = None
    tasklist: Annotated[list[Task], BeforeValidator(_sequence)] = Field(default_factory=list)
    files: Annotated[list[UploadedFile], BeforeValidator(_sequence)] = Field(default_factory=list, alias="list")
    tool: Annotated[list[Tool], BeforeValidator(_sequence)] = Field(default_factory=list)

    @property
    def code(self) -> int | None:
        """The error code that decides: the first that isn't 0, else the first, else None."""
        codes = [fault.code or 0 for fault in self.errors]
        return next((code for code in codes if code), codes[0] if codes else None)

    @property
    def has_envelope(self) -> bool:
        """Whether it is the service's own: JSON without `result` may be a proxy's."""
        return self.result is not None

    @property
    def message(self) -> str:
        """The service's own words, at most 500 characters of them."""
        return "; ".join(fault.message for fault in self.errors if fault.message)[:500]


class Unparsable(ValueError):
    """The body isn't the JSON of an answer: cut, HTML, or one of the page's own slips."""


def parse_answer(body: bytes) -> Answer:
    """The answer in `body`.

    Raises:
        Unparsable: if it isn't one. The JSON parser bounds the depth; the caller bounds the size.
    """
    try:
        try:
            return Answer.model_validate_json(body)
        except ValidationError as error:
            if not any(word in str(error) for word in ("hex escape", "surrogate")):
                raise
            # half a surrogate pair, as a cut by a JavaScript server leaves it
            whole = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
            return Answer.model_validate_json(whole)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise Unparsable(str(error)) from None
        raise Unparsable(error.errors(include_url=False, include_input=False)[0]["msg"]) from None


def retry_after(value: str | None, now: float) -> float | None:
    """A `Retry-After` header (seconds or an HTTP date) as seconds from `now`; None if there is none to read."""
    if not value:
        return None
    seconds = _number(value.strip())
    if seconds is not None:
        return max(0.0, seconds)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)


def read_answer(status: int, body: bytes, retry_after_seconds: float | None = None) -> Answer:
    """The answer to a request that may be repeated, which is every one but Run.

    An answer without the service's envelope (a proxy's page, a firewall's, a captive portal's) says nothing about
    credentials, models or tasks, whatever its status (WIRO_API 2).

    Raises:
        errors.TryLater: rate limit, a fault of the server, or an answer that is not the service's.
        errors.NotFound: code 1 or 404, or another word for it.
        errors.AtLimit: code 96.
        errors.OutOfFunds: code 97, or a team's spend limit.
        errors.StopBatch: credentials (401, 403, codes 98 and 99), or what concerns the whole account.
        errors.JobFailed: any other refusal of this one request.
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
    """What was met instead of an answer of the service, for people."""
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
    """Whether a message holds one of the sentences, whatever its case, dots and hyphens."""
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
    """A task exists. One of the two may be missing, never both."""

    task_id: TaskId | None
    token: TaskToken | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Certainly no task was made; `error` says what to do about it."""

    error: errors.WanError


@dataclass(frozen=True, slots=True)
class Unclear:
    """Whether a task was made can't be told from the answer.

    Attributes:
        reason: what was met, for people.
        proofs: after how many proven absences in a row, each after this same answer, and with no other Run accepted
            meanwhile, it counts as a refusal. A text of the service is believed sooner than somebody's page.
    """

    reason: str
    proofs: int


TEXT_PROOFS, PAGE_PROOFS, FAULT_PROOFS = 2, 5, 20
DEFINITE_REFUSALS = frozenset({400, 401, 403, 404, 413, 429})


def judge_run(status: int, body: bytes, retry_after_seconds: float | None = None) -> Accepted | Refused | Unclear:
    """What an answer to Run means. Whatever is not known to be a refusal may have made a task."""
    proofs = PAGE_PROOFS if 300 <= status < 500 and status != 408 else FAULT_PROOFS
    try:
        answer = parse_answer(body)
    except Unparsable as error:
        return Unclear(_not_the_service(status, body, str(error)), proofs)
    task_id = (
        TaskId(answer.taskid) if answer.taskid and answer.taskid != "0" else None
    )  # "0" stands for "none" in this API
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
    except errors.NotFound as error:  # the model itself: every job would meet the same
        return errors.StopBatch(f"the model can't be run: {error.message}")
    except errors.WanError as error:
        return error
    return errors.JobFailed(f"the API refused the request ({status})")


def subscription(token: TaskToken) -> str:
    """The socket message that subscribes to one task; a connection takes many of them."""
    return json.dumps({"type": "task_info", "tasktoken": token})


@dataclass(frozen=True, slots=True)
class Hint:
    """Something the socket or the webhook said about a task: a reason to ask Task/Detail, never the truth.

    Attributes:
        percent: 0 to 100 where the message carries progress.
        over: whether it says that the task has ended.
    """

    task_id: TaskId | None
    token: TaskToken | None = field(repr=False)
    status: str
    percent: float | None = None
    over: bool = False


class _Message(_Wire):
    type: Text = ""
    id: MaybeText = None
    tasktoken: MaybeText = None
    message: Annotated[Any, BeforeValidator(_json_in_text)] = None


def parse_message(text: str | bytes) -> Hint | None:
    """A message of the socket; None for a greeting, another task's business, or what can't be read.

    The newest messages name the task by `id` alone, older ones carry its token as well (WIRO_API 6).
    """
    try:
        message = _Message.model_validate_json(text)
    except ValidationError:
        return None
    if not message.tasktoken and not message.id:
        return None
    progress = message.message if isinstance(message.message, dict) else {}
    percent = _number(progress.get("percentage"))
    return Hint(
        TaskId(message.id) if message.id else None,
        TaskToken(message.tasktoken) if message.tasktoken else None,
        message.type,
        None if percent is None else min(100.0, max(0.0, percent)),
        message.type in ("task_postprocess_end", "task_cancel"),
    )


def parse_callback(body: bytes) -> list[Hint]:
    """What a webhook's body says: that these tasks are over. Nothing if it can't be read or names no task.

    Wiro POSTs the task there, shaped like Task/Detail (its API documentation).
    """
    try:
        tasks = Answer.model_validate_json(body).tasklist or [Task.model_validate_json(body)]
    except ValidationError:
        return []
    return [
        Hint(TaskId(task.id) if task.id else None, TaskToken(task.socketaccesstoken) or None, task.status, over=True)
        for task in tasks
        if task.id or task.socketaccesstoken
    ]
