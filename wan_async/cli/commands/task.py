"""`task`: list, show, cancel, kill or download remote tasks, by id or token, whether or not a journal has them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.cli import api_settings, local_sandbox
from wan_async.cli.api_settings import Access
from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import named_journal
from wan_async.cli.display_text import aligned, sanitise, truncate
from wan_async.cli.error_messages import of_this_command, print_json_line, say
from wan_async.client.session import names_of
from wan_async.client.wan_client import WanClient
from wan_async.domain import money
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.model import WAN
from wan_async.domain.remote_task import TaskDetail, TaskId, ending
from wan_async.engine import task_listing
from wan_async.journal.base import FOLDER, DatabaseHome
from wan_async.journal.journal_location import name_of_output
from wan_async.journal.reports import Owned, owned_tasks, read_all
from wan_async.task_handles import Task
from wan_async.wiro import protocol

LISTED_BY_DEFAULT = 20
PROMPT_LENGTH = 60


def task(args: argparse.Namespace) -> ExitCode:
    """Run one of the `task` commands; returns its exit code.

    Raises:
        errors.WanError: there is no account, or the service can't be reached.
    """
    with _access(args.sandbox) as access:
        match args.task_command:
            case "list":
                return list_tasks(access, args)
            case "show":
                return anyio.run(_each, access, args, _show)
            case "cancel":
                return anyio.run(_each, access, args, _cancel)
            case "kill":
                return anyio.run(_each, access, args, _kill)
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.Unusable(f"{args.output} can't be made: {error.strerror or error}") from None
        return anyio.run(_each, access, args, _download)


@contextmanager
def _access(sandbox: Path | None) -> Iterator[Access]:
    """Access to the account of the environment, or to the sandbox that keeps its tasks in an output folder."""
    if sandbox is None:
        yield api_settings.required("--sandbox OUT")
        return
    if not local_sandbox.state_in(sandbox).is_dir():
        raise errors.Unusable(f"no run with --sandbox has kept tasks in {sandbox}: name its output folder, OUT.sandbox")
    with local_sandbox.own_sandbox(sandbox) as access:
        yield access


def list_tasks(access: Access, args: argparse.Namespace) -> ExitCode:
    """Print the account's newest tasks; with `--orphans` only those that no attempt of an output owns."""
    owned = _owned(access, args)
    limit = args.limit or (sys.maxsize if owned is not None else LISTED_BY_DEFAULT)
    _print(
        anyio.run(_list, access, owned, limit), "no tasks" if owned is None else "no task without an owner", args.json
    )
    return ExitCode.SUCCESS


def _print(shown: list[TaskDetail], nothing: str, as_json: bool) -> None:
    if as_json:
        common = of_this_command()
        for task in shown:
            print_json_line({"event": "task", **common, **_facts(task)})
        return
    for line in aligned([_row(task) for task in shown]) or [nothing]:
        print(line)


def _owned(access: Access, args: argparse.Namespace) -> Owned | None:
    """What the journals own that `--orphans` and `--journal` name; None without `--orphans`.

    Raises:
        errors.InvalidBatch: `--journal` is given without `--orphans`, or `--orphans` without an output.
        errors.Unusable: there is no journal, or it can't be read.
    """
    if args.orphans is None:
        if args.journal is not None:
            raise errors.InvalidBatch([errors.Problem("--journal", "is for --orphans")])
        return None
    if is_database(args.journal):
        return _owned_in_database(access, args)
    if args.orphans is True:
        raise errors.InvalidBatch([errors.Problem("--orphans", "name an output, or --journal postgresql://...")])
    found = [known for _, known in read_all(args.orphans, owned_tasks, named_journal(args, args.orphans))]
    names: set[str] = set().union(*(known.names for known in found))
    if isinstance(args.orphans, Path):
        names |= _owned_beside(args.orphans.absolute())
    return Owned(names, min(known.since for known in found))


def _owned_in_database(access: Access, args: argparse.Namespace) -> Owned:
    """What all journals of a database own that belong to the account, as far back as the named one goes."""
    from wan_async.journal.postgres_reading import outputs_in  # its driver is in an extra

    wanted = None if args.orphans is True else name_of_output(args.orphans)
    outputs = outputs_in(args.journal, Account(access.origin, access.key))
    if wanted is not None and wanted not in outputs:
        raise errors.Unusable(f"there is no journal of {args.orphans} of this account in this database")
    found = {output: owned_tasks(DatabaseHome(args.journal, output)) for output in outputs}
    names: set[str] = set().union(*(known.names for known in found.values() if known is not None))
    return Owned(names, min(known.since for output, known in found.items() if known and wanted in (None, output)))


def _owned_beside(folder: Path) -> set[str]:
    """What the journals of the folders beside an output folder own: their tasks are no orphans either."""
    names, read, unread = set[str](), list[str](), list[str]()
    for home in sorted(folder.parent.glob(f"*/{FOLDER}")):
        sibling = home.parent
        if sibling == folder or sibling.suffix == ".sandbox" != folder.suffix:  # a sandbox has tasks of its own
            continue
        try:
            names |= set().union(*(known.names for _, known in read_all(sibling, owned_tasks)))
            read.append(sibling.name)
        except errors.Unusable:
            unread.append(sibling.name)
    if read:
        say(f"note: tasks of these folders beside it are left out, too: {sanitise(', '.join(read))}")
    if unread:
        say(f"note: the journals of these can't be read, so their tasks are listed: {sanitise(', '.join(unread))}")
    return names


async def _list(access: Access, owned: Owned | None, limit: int) -> list[TaskDetail]:
    """The newest tasks; with `owned`, only those since the journal's first that no attempt owns."""
    found: dict[str, TaskDetail] = {}
    start, seen = 0, 0
    async with access.api() as api:
        while seen < limit:
            page = (await api.list_tasks(start, min(protocol.LIST_PAGE, limit - seen))).tasklist
            fresh = [task for task in page if task_listing.key_of(task) not in found]
            seen += len(fresh)
            found.update((task_listing.key_of(task), task) for task in fresh)
            start += len(page)
            too_old = owned is not None and page and (page[-1].createtime or 0.0) < owned.since
            if not fresh or too_old:
                break
    return [
        task
        for task in found.values()
        if owned is None
        or (
            (task.createtime or owned.since) >= owned.since
            and owned.names.isdisjoint(name for name in (task.id, task.socketaccesstoken) if name)
        )
    ]


def _facts(task: TaskDetail) -> dict[str, object]:
    """A task as a JSON object, without its token, which is a secret."""
    return {
        "task_id": task.id,
        "status": task.status,
        "pexit": task.pexit,
        "cost_usd": None if task.totalcost is None else f"{money.usd(task.totalcost):f}",
        "created_at": task.createtime,
        "started_at": task.starttime,
        "ended_at": task.endtime,
        "parameters": task.parameters,
        "outputs": [
            {"content_type": output.contenttype, "bytes": output.size, "url": output.url} for output in task.outputs
        ],
        "error": task.debugerror or None,
    }


def _row(task: TaskDetail) -> list[str]:
    cost = "" if task.totalcost is None else f"${money.usd(task.totalcost):f}"
    prompt = truncate(str(task.parameters.get(WAN.prompt.wire) or ""), PROMPT_LENGTH)
    return [sanitise(task.id), sanitise(task.status), _when(task.createtime), cost, prompt]


def _when(seconds: float | None) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


async def _each(
    access: Access, args: argparse.Namespace, act: Callable[[WanClient, Task, argparse.Namespace], Awaitable[str]]
) -> ExitCode:
    """Apply `act` to each of the tasks; one that fails doesn't stop the others. Returns the worst exit code."""
    code = ExitCode.SUCCESS
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(WanClient(access.key, access.secret, base_url=access.base_url))
        for number, name in enumerate(args.tasks, 1):
            shown = name if name.isdecimal() else f"number {number}"  # a token is a secret
            try:
                print(await act(client, Task(id=name) if name.isdecimal() else Task(token=name), args))
            except errors.StopBatch:
                raise
            except (errors.WanError, FileExistsError) as error:
                message = error.message if isinstance(error, errors.WanError) else str(error)
                say(f"error: task {shown}: {sanitise(message)}")
                unusable = isinstance(error, errors.Unusable | errors.TryLater)
                code = ExitCode.first_of([code, ExitCode.ENVIRONMENT if unusable else ExitCode.FAILURES])
    return code


async def _show(client: WanClient, task: Task, args: argparse.Namespace) -> str:
    found = await client.tasks.get(task)
    facts = _facts(found)
    if args.json:
        return json.dumps({"event": "task", **of_this_command(), **facts})
    facts |= {name: _when(facts[name]) for name in ("created_at", "started_at", "ended_at")}  # type: ignore[arg-type] # numbers or None
    parameters, outputs = facts.pop("parameters"), facts.pop("outputs")
    lines = [f"{name}: {sanitise(str(value))}" for name, value in facts.items() if value not in (None, "")]
    assert isinstance(parameters, dict)
    assert isinstance(outputs, list)
    lines += [f"  {sanitise(name)}: {sanitise(str(value))}" for name, value in parameters.items() if value]
    lines += [f"  output: {sanitise(' '.join(str(value) for value in output.values()))}" for output in outputs]
    return "\n".join(lines)


async def _cancel(client: WanClient, task: Task, args: argparse.Namespace) -> str:
    api = client.session.dependencies.api
    task_id = TaskId(task.id or (await client.tasks.get(task)).id)
    await api.cancel(task_id)
    return f"task {task_id} is cancelled"


async def _kill(client: WanClient, task: Task, args: argparse.Namespace) -> str:
    killed = await client.session.dependencies.api.kill(*names_of(task))
    return f"task {(killed.id if killed else '') or task.id or ''} is killed"


async def _download(client: WanClient, task: Task, args: argparse.Namespace) -> str:
    found = await client.tasks.get(task)
    if ending(found) is None:
        raise errors.TryLater(f"it still runs ({found.status})", task_id=found.id)
    task_id = task.id or found.id
    clip = await client.wait(task, to=args.output / f"task-{task_id if task_id.isdecimal() else 'clip'}")
    cost = "" if clip.cost_micros is None else f", ${money.usd(clip.cost_micros):f}"
    return "\n".join([f"{clip.path} ({clip.bytes} bytes{cost})", *(str(path) for path in clip.further)])
