"""Checks of the API and the account: answers, credentials, clock, tasks, model, prices, wallet, uploads. All free."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import anyio
import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.cli.api_settings import Access
from wan_async.cli.checks.base import Finding, Report, Status, failed, ok, skipped, warning
from wan_async.cli.checks.model_and_price import model_findings
from wan_async.cli.display_text import duration, truncate, usd
from wan_async.domain import money
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.model import WAN
from wan_async.domain.remote_task import ending
from wan_async.http.descriptor_limit import connections
from wan_async.http.transport import StackTransport
from wan_async.wiro.api import UPLOAD_REFUSALS, Api
from wan_async.wiro.bodies import InlineImage
from wan_async.wiro.schemas import Answer

LISTED_TASKS = 20
SKEW_SECONDS = 30.0
"""A clock that differs by more from the API's is reported."""
LEAST_BALANCE_MICROS = 500_000
"""Below this balance the service refuses every Run (error 97)."""
UNLIMITED_MICROS = 250_000_000
REQUEST_SECONDS = 4.0
"""For the requests that follow the first one, all at once."""
FIRST_SECONDS = 5.0
SET_THEM = "set WIRO_API_KEY, and WIRO_API_SECRET if the project has one, to what the project's page at Wiro shows"


@dataclass
class Observed(httpx.AsyncBaseTransport):
    """A transport that keeps what the last answer tells about the server's clock.

    Attributes:
        inner: sends the requests.
        skew_seconds: by how much this machine's clock is ahead of the server's; None if that is not known.
        taken_seconds: how long the last answer took.
    """

    inner: httpx.AsyncBaseTransport = field(default_factory=lambda: StackTransport(max_connections=connections()))
    clock: Callable[[], float] = time.time
    skew_seconds: float | None = None
    taken_seconds: float = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        sent, began = self.clock(), time.monotonic()
        response = await self.inner.handle_async_request(request)
        self.taken_seconds = time.monotonic() - began
        try:
            date = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
        except (ValueError, OverflowError):
            return response
        self.skew_seconds = sent + self.taken_seconds / 2 - (date + 0.5)  # the header has whole seconds
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self.inner.aclose()


async def check_account(access: Access | None, base_url: str, report: Report, *, upload: bool) -> None:
    """Check the API's answers, and with credentials the account.

    Args:
        access: the account, None without credentials.
        base_url: the API's URL.
        report: takes the findings.
        upload: also upload a tiny image.
    """
    observed = Observed()
    key, secret = (access.key, access.secret) if access is not None else ("doctor", None)
    try:
        made = Api(SecretStr(key), SecretStr(secret) if secret else None, base_url=base_url, transport=observed)
    except errors.InvalidBatch as error:
        said = str(error.problems[0])
        report(failed("credentials", said, f"copy it again: {SET_THEM}", ExitCode.AUTHENTICATION, kind=None))
        return
    async with made as api:
        answer = await _first_answer(api, observed, access, report)
        if access is None:
            return
        if answer is None:
            report(skipped("account", "not checked: see what failed above"))
            return
        steps = [_kind_of(access), lambda: _listed(answer), lambda: _model(api), lambda: _wallet(api)]
        if upload:
            steps.append(lambda: _upload(api))
        found: list[list[Finding]] = [[] for _ in steps]

        async def take(number: int, step: Callable[[], Awaitable[list[Finding]]]) -> None:
            found[number] = await step()

        async with anyio.create_task_group() as group:
            for number, step in enumerate(steps):
                group.start_soon(take, number, step)
        for findings in found:
            for finding in findings:
                report(finding)


async def _first_answer(api: Api, observed: Observed, access: Access | None, report: Report) -> Answer | None:
    """Send the first request; reports the API, the clock and refused credentials. None if nothing else can be asked."""
    refused: errors.StopBatch | None = None
    answer: Answer | None = None
    try:
        with anyio.fail_after(FIRST_SECONDS):
            answer = await api.list_tasks(limit=LISTED_TASKS, tries=2)
    except TimeoutError:
        advice = "try again later; if it stays so, ask whether a firewall or proxy holds the connection"
        report(failed("api", f"{api.base_url} does not answer within {FIRST_SECONDS:.0f} s", advice))
        return None
    except errors.NoSuchAddress:
        advice = "correct WIRO_BASE_URL, or unset it to use Wiro"
        report(failed("api", f"{api.base_url} is not the API's address: it knows no task list", advice))
        return None
    except errors.StopBatch as error:
        refused = error
    except errors.TryLater as error:
        report(_no_answer(api, error))
        return None
    except errors.WanError as error:
        report(failed("api", truncate(error.message), "look the message up in Wiro's documentation"))
        return None
    report(ok("api", f"{api.base_url} answers in {observed.taken_seconds * 1000:.0f} ms",
              seconds=round(observed.taken_seconds, 3)))  # fmt: skip
    report(_clock(observed.skew_seconds))
    if access is None:
        report(no_credentials())
    elif refused is not None:
        report(_refused(refused, access, observed.skew_seconds))
    return answer


def no_credentials() -> Finding:
    """The finding where there is no key."""
    advice = f"{SET_THEM} (or put them into .env), or try --sandbox, which needs no account"
    return failed("credentials", "there is no API key", advice, ExitCode.AUTHENTICATION, kind=None)


def _no_answer(api: Api, error: errors.TryLater) -> Finding:
    said = truncate(error.message)
    if error.status is not None and "instead of the API's answer" in said:
        advice = (
            "something between this machine and Wiro answers for it (a firewall, a proxy, a login page): open "
            f"{api.base_url} in a browser here, and ask for access to that host"
        )
    elif error.status == 429:
        return warning("api", said, "wait a minute: another program uses this project's rate limit")
    elif error.hopeless:
        said, _, advice = said.rpartition(": ")
    elif error.status is not None:
        advice = "the service has a fault: try again later"
    else:
        advice = "check the network, and a firewall or proxy before it"
    return failed("api", said, advice, http_status=error.status)


def _clock(skew: float | None) -> Finding:
    if skew is None:
        return skipped("clock", "the API's answer shows no time to compare with")
    if abs(skew) <= SKEW_SECONDS:
        return ok("clock", f"within {max(1, round(abs(skew)))} s of the API's", skew_seconds=round(skew, 1))
    said = f"this machine's clock is {duration(round(abs(skew)))} {'ahead of' if skew > 0 else 'behind'} the API's"
    advice = (
        "set it, by network time (NTP): signatures are numbered by it, and tasks of unanswered requests are found by it"
    )
    return warning("clock", said, advice, skew_seconds=round(skew, 1))


def _refused(error: errors.StopBatch, access: Access, skew: float | None) -> Finding:
    said = truncate(error.message.removeprefix("the API refuses the credentials: ").partition(" (is the secret")[0])
    kind = "with a signature" if access.secret else "key only"
    if not error.authentication:
        return failed("credentials", f"refused: {said}", "ask Wiro's support")
    words = said.lower()
    if "requires signature" in words:
        advice = (
            "this project is signature based: set WIRO_API_SECRET, or switch the project to API key only"
            if not access.secret
            else "set WIRO_API_SECRET to this project's secret"
        )
    elif "founded" in words:
        advice = f"the key is not known: {SET_THEM}"
    elif "ip" in words.split():
        advice = "allow this machine's public address in the project's settings at Wiro"
    elif "is not valid" in words:
        advice = "the secret does not belong to the key: copy both from the project's page again"
    else:
        advice = SET_THEM
    if skew is not None and abs(skew) > SKEW_SECONDS:
        advice += "; set the clock, too: a signature may be refused for its time"
    return failed("credentials", f"refused ({kind}): {said}", advice, ExitCode.AUTHENTICATION, kind=_kind(access))


def _kind(access: Access) -> str:
    return "signature" if access.secret else "key-only"


def _kind_of(access: Access) -> Callable[[], Awaitable[list[Finding]]]:
    """A check of which kind the project is: whether it refuses a request without a signature."""

    async def check() -> list[Finding]:
        if not access.secret:
            advice = "whoever has the key can spend; a signature based project is safer"
            return [ok("credentials", f"accepted, key only: no secret is set ({advice})", kind="key-only")]
        try:
            with anyio.fail_after(REQUEST_SECONDS):
                async with Api(SecretStr(access.key), None, base_url=access.base_url) as bare:
                    await bare.list_tasks(limit=1, tries=1)
        except errors.StopBatch:
            return [ok("credentials", "accepted, with a signature, which the project requires", kind="signature")]
        except (errors.WanError, TimeoutError):
            return [ok("credentials", "accepted, with a signature", kind="signature")]
        said = "accepted, but the project is of the kind API key only: it doesn't check the secret"
        return [warning("credentials", said, "switch the project to signature based at Wiro, or unset WIRO_API_SECRET",
                        kind="key-only")]  # fmt: skip

    return check


async def _listed(answer: Answer) -> list[Finding]:
    listed = answer.tasklist
    total = answer.total if answer.total is not None else len(listed)
    running = sum(ending(task) is None for task in listed)
    said = f"{total:,} task{'s' * (total != 1)} of {WAN.project}"
    if listed:
        said += f", {running} of the newest {len(listed)} not ended"
    return [ok("tasks", said, total=total, running=running)]


async def _asked(check: str, ask: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """The findings of a request; a warning if it fails, since a run does without it."""
    try:
        with anyio.fail_after(REQUEST_SECONDS):
            return await ask()
    except TimeoutError:
        return [warning(check, f"no answer within {REQUEST_SECONDS:.0f} s", "try again later")]
    except errors.WanError as error:
        return [warning(check, truncate(error.message), "try again later; if it stays so, ask Wiro's support")]


async def _model(api: Api) -> list[Finding]:
    async def ask() -> list[Finding]:
        try:
            return model_findings(await api.tool())
        except errors.NotFound:
            advice = "ask Wiro's support whether the model was withdrawn, or update: pip install -U wan-async"
            return [failed("model", f"the service has no {WAN.name} for this account", advice)]

    return await _asked("model", ask)


async def _wallet(api: Api) -> list[Finding]:
    async def ask() -> list[Finding]:
        balance = await api.balance()
        if balance is None:
            return [warning("wallet", "the answer shows no balance", "see the balance on Wiro's dashboard")]
        said = f"{usd(money.usd(balance))} left"
        facts = {"balance_usd": f"{money.usd(balance):f}"}
        if balance < LEAST_BALANCE_MICROS:
            advice = "add money: below $0.50 the service refuses every job"
            return [Finding("wallet", Status.FAILED, said, advice, facts=dict(facts))]
        limit = None if balance > UNLIMITED_MICROS else max(1, balance // 10_000_000)
        return [ok("wallet", f"{said}: " + ("no limit of tasks at once" if limit is None else
                   f"at most {limit} task{'s' * (limit != 1)} at once, a tenth of the balance in USD"),
                   concurrency_limit=limit, **facts)]  # fmt: skip

    return await _asked("wallet", ask)


async def _upload(api: Api) -> list[Finding]:
    async def ask() -> list[Finding]:
        image = InlineImage(gradient_png(16, 16), "image/png")
        try:
            await api.upload(image, content_type="image/png", tries=UPLOAD_REFUSALS)
        except errors.UploadRefused as error:
            advice = "nothing to do: images then travel inside each job's request (--upload auto)"
            return [warning("upload", f"uploads are refused: {truncate(error.message)}", advice)]
        return [ok("upload", f"an image of {len(image.data)} bytes was uploaded")]

    return await _asked("upload", ask)


def gradient_png(width: int, height: int) -> bytes:
    """A PNG with a colour gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            rows += bytes((255 * x // width, 255 * y // height, 160))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    )
