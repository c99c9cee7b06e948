"""`worker`: render the jobs of a queue."""

from __future__ import annotations

import argparse
import os
import sys

import anyio

from wan_async.cli.api_settings import Access, required
from wan_async.cli.command_inputs import say_service
from wan_async.cli.display import Display, PipeWriter, json_lines
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import say
from wan_async.cli.logs import logging_to
from wan_async.cli.run_options import run_options
from wan_async.cli.signals import drive
from wan_async.cli.worker_lines import WorkerLines
from wan_async.cluster.cluster_worker import ClusterWorker
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.options import Options
from wan_async.engine.run_events import EventStream
from wan_async.http import descriptor_limit
from wan_async.http.urls import is_private
from wan_async.outputs.downloader import Downloader


def worker(args: argparse.Namespace) -> ExitCode:
    """Render what is in the queue, until stopped or, with `--once`, until nothing is left.

    Raises:
        errors.WanError: the queue can't be used, or there are no credentials.
    """
    options, access = run_options(args), required("`run BATCH --sandbox`")
    say_service(args)
    descriptor_limit.raise_limit()
    with logging_to(args.verbose, args.log_file):
        display = json_lines(sys.stdout) if args.json else _plain(args)
        with display:
            lost, code = anyio.run(_work, args, options, access, display)
    if lost:  # as a new process: nothing of what this one knew holds any more
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same command once more
    return code


def _plain(args: argparse.Namespace) -> Display:
    seconds, is_verbose = args.summary_every, args.verbose > 0
    name = f"worker {os.getpid()}"
    return WorkerLines(PipeWriter(sys.stdout), name=name, quiet=args.quiet, verbose=is_verbose, summary_seconds=seconds)


async def _work(args: argparse.Namespace, options: Options, access: Access, display: Display) -> tuple[bool, ExitCode]:
    api, stream = access.api(), EventStream()
    async with api, Downloader(allow_private=is_private(api.base_url), base_url=api.base_url) as downloader:
        runner = ClusterWorker(
            args.journal,
            dependencies=Dependencies(api, downloader, socket_url=access.socket_url),
            account=Account(access.origin, access.key),
            options=options,
            stream=stream,
            lease_seconds=args.lease,
            once=args.once,
        )
        finished = await drive(runner, stream, display, term_seconds=args.drain)
    if runner.reason is not None and not runner.lost:
        say(f"error: {sanitise(runner.reason)}")
    return runner.lost, ExitCode(finished.exit_code)
