"""Signal handling of a run, logging, and the process of the local sandbox."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from sample_events import (
    accepted,
    downloading,
    ended,
    failed,
    finished,
    running,
    started,
    stopping,
    stored,
    submitting,
    uploaded,
)

from wan_async import errors
from wan_async.cli.display import Display
from wan_async.cli.local_sandbox import sandbox
from wan_async.cli.logs import LogHandler, log_fact, logging_to
from wan_async.cli.signals import TERM_SECONDS, TICK_SECONDS, drive
from wan_async.domain import events
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream

pytestmark = pytest.mark.anyio

SIGHUP = getattr(signal, "SIGHUP", None)


class Screen(Display):
    """A display that records the events and ticks."""

    def __init__(self) -> None:
        self.shown: list[events.Event] = []
        self.ticks: list[float] = []
        self.restored = 0

    def show(self, event: events.Event) -> None:
        self.shown.append(event)

    def tick(self, at: float) -> None:
        self.ticks.append(at)

    def close(self) -> None:
        self.restored += 1


class ScriptedRun:
    """A run with a scripted body, which records the requests to stop and to leave."""

    def __init__(self, act: Callable[[ScriptedRun], Awaitable[object]]) -> None:
        self.stream = EventStream()
        self.screen = Screen()
        self.act = act
        self.requests: list[tuple[object, ...]] = []
        self.times: list[float] = []
        self._waiting = anyio.Event()

    def _record(self, *request: object) -> None:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        self._waiting.set()

    def stop(self, reason: str, exit_code: int) -> None:
        self._record(exit_code, reason)

    def leave(self) -> None:
        self._record("leave")

    async def wait_requests(self, times: int) -> None:
        """Wait until this many requests were recorded."""
        while len(self.requests) < times:
            self._waiting = anyio.Event()
            await self._waiting.wait()

    async def run(self) -> events.Finished:
        await anyio.wait_all_tasks_blocked()  # until the signal handlers are installed
        try:
            await self.act(self)
        finally:
            last = finished()
            self.stream.put(last)
            self.stream.close()
        return last

    async def drive(self, names: dict[str, str] | None = None) -> events.Finished:
        with anyio.fail_after(60):
            return await drive(cast(Run, self), self.stream, self.screen, names)
        raise AssertionError("the run neither ended nor failed")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


async def test_every_event_is_shown_in_order_and_the_last_is_returned() -> None:
    facts: list[events.AnyEvent] = [accepted("a"), stored("a"), stopping()]

    async def act(run: ScriptedRun) -> None:
        for fact in facts:
            run.stream.put(fact)
            await anyio.lowlevel.checkpoint()

    scripted = ScriptedRun(act)
    last = await scripted.drive()
    assert scripted.screen.shown == [*facts, last]
    assert scripted.requests == []


async def test_events_have_the_names_of_jobs_where_they_have_one() -> None:
    async def act(run: ScriptedRun) -> None:
        for event in (accepted("k1"), stored("k2"), stopping(), running("k1", 5)):
            run.stream.put(event)

    scripted = ScriptedRun(act)
    await scripted.drive({"k1": "koala"})
    assert scripted.screen.shown == [accepted("koala"), stored("k2"), stopping(), finished(), running("koala", 5)]


@pytest.mark.virtual_time
async def test_the_display_ticks_while_no_event_arrives() -> None:
    scripted = ScriptedRun(lambda run: anyio.sleep(TICK_SECONDS * 10.5))
    await scripted.drive()
    assert len(scripted.screen.ticks) == 10
    assert scripted.screen.ticks == sorted(scripted.screen.ticks)


async def test_an_exception_of_the_run_is_raised() -> None:
    async def act(run: ScriptedRun) -> None:
        raise RuntimeError("broken")

    with pytest.raises(BaseExceptionGroup) as caught:
        await ScriptedRun(act).drive()
    assert caught.group_contains(RuntimeError, match="broken")


async def test_the_first_ctrl_c_drains_the_second_leaves_and_the_third_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(run: ScriptedRun) -> None:
        for number in range(1, 4):
            send(signal.SIGINT)
            await run.wait_requests(number)

    scripted = ScriptedRun(act)

    def exit_now(code: int) -> None:
        scripted._record("exit", code, scripted.screen.restored)

    monkeypatch.setattr(os, "_exit", exit_now)
    await scripted.drive()
    stop, leave, end = scripted.requests
    assert stop == (
        130, "Ctrl-C: nothing more is submitted; what runs is finished and downloaded (again to leave)"
    )  # fmt: skip
    assert leave == ("leave",)
    assert end == ("exit", 130, 1), "the terminal is restored before the process ends"


@pytest.mark.virtual_time
@pytest.mark.skipif(SIGHUP is None, reason="Windows has no SIGHUP")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
async def test_sigterm_and_sighup_stop_and_leave_after_a_deadline(name: str, code: int) -> None:
    async def act(run: ScriptedRun) -> None:
        send(getattr(signal, name))
        await run.wait_requests(2)

    scripted = ScriptedRun(act)
    await scripted.drive()
    assert scripted.requests == [(code, f"{name}: nothing more is submitted"), ("leave",)]
    assert scripted.times[1] - scripted.times[0] == pytest.approx(TERM_SECONDS)


@pytest.mark.virtual_time
async def test_a_run_that_ends_before_the_deadline_gets_no_leave_request() -> None:
    async def act(run: ScriptedRun) -> None:
        send(signal.SIGTERM)
        await run.wait_requests(1)
        await anyio.sleep(TERM_SECONDS - 1)

    scripted = ScriptedRun(act)
    await scripted.drive()
    await anyio.sleep(10)
    assert [first for first, *_ in scripted.requests] == [143]


async def test_ctrl_c_after_sigterm_counts_as_the_first_ctrl_c() -> None:
    async def act(run: ScriptedRun) -> None:
        for number, kind in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGINT), 1):
            send(kind)
            await run.wait_requests(number)

    scripted = ScriptedRun(act)
    await scripted.drive()
    assert [first for first, *_ in scripted.requests] == [143, 130, "leave"]


async def test_the_signal_handlers_are_restored_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    held: list[object] = []

    async def act(run: ScriptedRun) -> None:
        held.append(signal.getsignal(signal.SIGINT))

    await ScriptedRun(act).drive()
    assert held != [before[0]]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_a_run_works_without_support_for_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*signals: int) -> None:
        raise NotImplementedError  # as asyncio does on Windows

    monkeypatch.setattr(anyio, "open_signal_receiver", missing)
    scripted = ScriptedRun(lambda run: anyio.lowlevel.checkpoint())
    assert (await scripted.drive()).exit_code == 0


ENDLESS = """if True:
    import anyio, os, signal
    from wan_async.cli import display, signals
    from wan_async.engine.run_events import EventStream

    class Endless:
        def stop(self, reason, code): print("stop", code, flush=True)
        def leave(self): print("leave", flush=True)
        async def run(self):
            await anyio.wait_all_tasks_blocked()
            print("runs", flush=True)
            await anyio.sleep_forever()

    with display.plain(open(os.devnull, "w")) as shown:
        anyio.run(signals.drive, Endless(), EventStream(), shown)
"""


def test_a_third_ctrl_c_ends_a_process_that_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = []
            for _ in range(3):
                lines.append(process.stdout.readline().strip())
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert lines == ["runs", "stop 130", "leave"]
        finally:
            process.kill()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("wan_async")
    level = logger.level
    yield logging.getLogger("wan_async.test")
    logger.setLevel(level)
    assert logger.handlers == []


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [(0, ["warning"]), (1, ["warning", "info"]), (2, ["warning", "info", "debug"]), (9, ["warning", "info", "debug"])],
)
def test_verbosity_selects_the_log_levels_on_stderr(
    verbosity: int, levels: list[str], log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(verbosity, None):
        log.warning("w %d", 1)
        log.info("i")
        log.debug("d")
    log.warning("afterwards")
    texts = {"warning": "w 1", "info": "i", "debug": "d"}
    assert capsys.readouterr().err.splitlines() == [f"{level}: {texts[level]}" for level in levels]


@pytest.mark.parametrize(("verbosity", "is_shown"), [(0, False), (1, True)])
def test_tracebacks_are_shown_only_where_more_is_asked_for(
    verbosity: int, is_shown: bool, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(verbosity, None):
        try:
            raise ValueError("\x1b[2Jodd")
        except ValueError:
            log.exception("it broke")
    first, *rest = capsys.readouterr().err.splitlines()
    assert (first, bool(rest)) == ("error: it broke", is_shown)
    assert "\x1b" not in "".join(rest)
    assert not rest or (rest[0].startswith("Traceback"), "odd" in rest[-1]) == (True, True)


def test_a_log_file_holds_all_levels_at_any_verbosity(
    log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    for text in ("first", "second"):
        with logging_to(0, path):
            log.debug(text)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [f"DEBUG wan_async.test {text}" for text in ("first", "second")]
    assert capsys.readouterr().err == ""


def test_a_log_file_has_the_facts_of_a_run_and_stderr_has_not(
    log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    stream = [
        started(jobs=1), submitting("a"), running("a", 5), accepted("a"), uploaded("a"), ended("a"),
        downloading("a", 5), stored("a"), failed("b", "exit code 1\n\x1b[2J"), finished(stored=1),
    ]  # fmt: skip
    with logging_to(2, path):
        for event in stream:
            log_fact(event)
    lines = [line.split(" ", 2)[2] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(stream) - 2
    assert lines[1:3] == [
        'INFO wan_async.run submitting job="a" attempt=1 price_usd="0.04"',
        'INFO wan_async.run accepted job="a" attempt=1 task_id="77" adopted=false',
    ]
    assert lines[3] == 'INFO wan_async.run uploaded job="a" attempt=0 bytes=2000000'
    assert 'ended job="a" attempt=1 task_id="77" status="task_postprocess_end" pexit="0" cost_usd="0.04"' in lines[4]
    assert 'file="a.mp4"' in lines[5]
    assert capsys.readouterr().err == ""


def test_logs_of_other_packages_are_excluded(
    log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(2, tmp_path / "log"):
        logging.getLogger("httpx").warning("x-api-key: secret")
    assert (tmp_path / "log").read_text() == ""
    assert "secret" not in capsys.readouterr().err


EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\u202eerror: \x9b2J"


def test_logged_text_contains_no_control_characters(
    log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    with logging_to(0, path):
        log.warning("%s", EVIL)
    err = capsys.readouterr().err
    for text in (err, path.read_text(encoding="utf-8")):
        assert text.count("\n") == 1
        assert text.removesuffix("\n").isprintable()
        assert "owned" in text


def test_a_traceback_in_the_log_file_keeps_its_line_breaks(log: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logging_to(0, path):
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            log.warning("it broke", exc_info=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith("it broke")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: broken"


class BrokenStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("how", ["closed", "broken", "missing"])
def test_logging_to_a_broken_stderr_raises_nothing(
    how: str, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: io.StringIO | None = None if how == "missing" else BrokenStream()
    if how == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_to(0, None):
        log.warning("lost")
        log.warning("lost, too")


def test_a_log_line_goes_to_the_current_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = LogHandler()
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "now %s", ("here",), None)
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        handler.emit(record)
        assert stream.getvalue() == "error: now here\n"


def test_a_log_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path, log: logging.Logger) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no" / "log", "No such file or directory")):
        with pytest.raises(errors.InvalidBatch) as caught:
            with logging_to(0, path):
                raise AssertionError("the block must not be entered")
        assert [str(problem) for problem in caught.value.problems] == [f"--log-file: {path} can't be written: {why}"]


class Process(subprocess.Popen[str]):
    """A small process in place of the sandbox; if `stubborn`, the wait for its shutdown times out at once."""

    stubborn = False

    def wait(self, timeout: float | None = None) -> int:
        if self.stubborn and timeout == 10 and self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return super().wait(timeout)


class Spawn:
    """Starts a Python program in place of the sandbox, and records its command, options and process."""

    def __init__(self, code: str, *, stubborn: bool = False) -> None:
        self.code, self.stubborn = code, stubborn
        self.command: list[str] = []
        self.options: dict[str, Any] = {}
        self.process: Process | None = None

    def __call__(self, command: list[str], **options: Any) -> Process:
        self.command, self.options = command, options
        self.process = Process([sys.executable, "-I", "-S", "-c", self.code], **options)
        self.process.stubborn = self.stubborn
        return self.process


STARTUP_LINE = (
    '{"base_url": "http://127.0.0.1:1/v1", "socket_url": "ws://127.0.0.1:1/v1", "api_key": "k", "api_secret": "s"}'
)
SANDBOX = f"import sys; print('{STARTUP_LINE}', flush=True); sys.stdin.read()"


def test_a_sandbox_announces_its_addresses_and_ends_with_its_block(tmp_path: Path) -> None:
    spawn = Spawn(SANDBOX)
    state = tmp_path / "deep" / "state"
    with sandbox(state, cast(Any, spawn)) as announced:
        assert (announced.base_url, announced.socket_url) == ("http://127.0.0.1:1/v1", "ws://127.0.0.1:1/v1")
        assert (announced.api_key, announced.api_secret) == ("k", "s")
        assert spawn.process is not None
        assert spawn.process.poll() is None
        assert os.getsid(spawn.process.pid) == spawn.process.pid, "Ctrl-C must not reach the sandbox"
    assert spawn.process.returncode == 0
    assert spawn.command[1:] == [
        "-m", "wan_async.sandbox", "--port", "0", "--state", str(state), "--exit-with-stdin"
    ]  # fmt: skip


def test_a_sandbox_of_a_key_only_project_has_no_secret(tmp_path: Path) -> None:
    spawn = Spawn(SANDBOX.replace(', "api_secret": "s"', ""))
    with sandbox(tmp_path, cast(Any, spawn)) as announced:
        assert announced.api_secret is None


def test_a_sandbox_ends_when_its_block_raises(tmp_path: Path) -> None:
    spawn = Spawn(SANDBOX)
    with pytest.raises(RuntimeError, match="broken"), sandbox(tmp_path, cast(Any, spawn)):
        raise RuntimeError("broken")
    assert spawn.process is not None
    assert spawn.process.returncode == 0


def test_a_sandbox_that_does_not_shut_down_is_killed(tmp_path: Path) -> None:
    stays = f"import signal; print('{STARTUP_LINE}', flush=True)\nwhile True: signal.pause()"
    spawn = Spawn(stays, stubborn=True)
    with sandbox(tmp_path, cast(Any, spawn)):
        pass
    assert spawn.process is not None
    assert spawn.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('the port is taken')", "the port is taken"),
        ("raise SystemExit", "it ended without a message"),
        ("print('Hello!')", "it ended without a message"),
        ("print('[]')", "it ended without a message"),
        ("print('5')", "it ended without a message"),
        ("print('null')", "it ended without a message"),
        ("print('{}')", "it ended without a message"),
        ("import sys; print('odd', file=sys.stderr); sys.stdout.buffer.write(bytes([255, 10]))", "odd"),
        ("import sys; sys.stderr.buffer.write(bytes([255]) + b' odd')", "\ufffd odd"),
        ("import sys; sys.exit('x' * 5000)", "x" * 600),
        (
            "import nonesuch_module",
            "No module named 'nonesuch_module' (its extras are missing: pip install 'wan-async[sandbox]')",
        ),
    ],
)
def test_a_sandbox_that_does_not_start_reports_why(tmp_path: Path, code: str, reason: str) -> None:
    spawn = Spawn(code)
    with pytest.raises(errors.Unusable) as caught, sandbox(tmp_path, cast(Any, spawn)):
        raise AssertionError("the block must not be entered")
    assert caught.value.message.startswith("the sandbox did not start: ")
    assert caught.value.message.endswith(reason)
    assert len(caught.value.message) < 700
    assert spawn.process is not None
    assert spawn.process.returncode is not None


def test_a_sandbox_whose_process_cannot_be_started_reports_why(tmp_path: Path) -> None:
    def popen(command: list[str], **options: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(errors.Unusable, match="the sandbox did not start: Resource temporarily unavailable"):
        with sandbox(tmp_path, popen):
            raise AssertionError("the block must not be entered")


def test_a_state_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "log").mkdir(parents=True)
    for state in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(errors.Unusable, match=r"can't be written: (File exists|Not a directory|Is a directory)"):
            with sandbox(state, cast(Any, Spawn(SANDBOX))):
                raise AssertionError("the block must not be entered")


def test_the_log_of_a_sandbox_is_kept_beside_its_state(tmp_path: Path) -> None:
    with sandbox(tmp_path, cast(Any, Spawn(SANDBOX.replace("import sys;", "import sys; sys.stderr.write('hello');")))):
        pass
    assert (tmp_path / "log").read_text() == "hello"
