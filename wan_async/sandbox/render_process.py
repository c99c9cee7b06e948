"""Renders clips in a separate process at low priority, so that the server's answers do not wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor

from wan_async.sandbox.clip_renderer import render
from wan_async.sandbox.service import Sandbox
from wan_async.sandbox.settings import ClipOrder


class Renderer:
    """Takes a sandbox's clip orders and delivers the clips on the event loop."""

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        self._sandbox = sandbox
        self._loop = loop
        self._pool = _pool()
        sandbox.render_with(self.start)

    def start(self, order: ClipOrder) -> None:
        """Begin to render a clip."""
        args = (order.image, order.prompt, order.resolution, order.aspect_ratio, order.seed)
        try:
            future = self._pool.submit(render, *args)
        except BrokenExecutor:  # the process was killed: its tasks have failed, the next ones need not
            self._pool = _pool()
            future = self._pool.submit(render, *args)
        future.add_done_callback(lambda done: self._schedule(order.task_id, done))

    def _schedule(self, task_key: str, future: Future[bytes]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._deliver, task_key, future)

    def _deliver(self, task_key: str, future: Future[bytes]) -> None:
        if not future.cancelled():
            self._sandbox.deliver_clip(task_key, None if future.exception() else future.result())

    def close(self) -> None:
        """Cancel what has not begun; do not wait for the clip in progress."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)  # the server has ended, perhaps by SIGKILL

    threading.Thread(target=watch, daemon=True).start()
