"""Apply a function to many items on all cores, in order, with bounded memory.

An item that crashes or hangs its worker takes only itself down: its chunk is repeated one item at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import numpy as np

from pipeline.images.items import Content, Problem

T = TypeVar("T")
CHUNK_ITEMS, CHUNK_BYTES = 256, 2 * 1024**2  # what travels to a worker at once
SECONDS_PER_CHUNK = 120  # a decoder that needs longer hangs


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[T], Any],
    items: Iterable[T],
    size: Callable[[T], int],
    on_crash: Callable[[T, Problem], Any],
) -> Iterator[Any]:
    """Yield `function(item)` for each item, in order.

    `size` gives the bytes of an item, to keep what is under way small; `on_crash` gives the result for an item
    whose worker died or took longer than SECONDS_PER_CHUNK.
    """
    workers = Workers()
    under_way: deque[tuple[list[T], Future[list[Any]]]] = deque()
    try:
        for chunk in chunks(items, size):
            under_way.append((chunk, workers.submit(function, chunk)))
            while len(under_way) > 3 * cores():
                yield from finish(workers, function, under_way, on_crash)
        while under_way:
            yield from finish(workers, function, under_way, on_crash)
    finally:
        workers.stop()


def content_size(content: Content) -> int:
    """Bytes that a content takes on its way to a worker."""
    if isinstance(content, np.ndarray):
        return content.nbytes
    return 0 if isinstance(content, Problem) else len(content)


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += size(item)
        if len(chunk) == CHUNK_ITEMS or total >= CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def finish(
    workers: Workers,
    function: Callable[[T], Any],
    under_way: deque[tuple[list[T], Future[list[Any]]]],
    on_crash: Callable[[T, Problem], Any],
) -> list[Any]:
    """Results of the oldest chunk. After a crash all chunks under way are lost: start them again."""
    chunk, future = under_way.popleft()
    try:
        return future.result(SECONDS_PER_CHUNK)
    except (BrokenProcessPool, TimeoutError):
        workers.stop()
    results = []
    for item in chunk:
        try:
            results += workers.submit(function, [item]).result(SECONDS_PER_CHUNK)
        except BrokenProcessPool:
            results.append(on_crash(item, Problem("unreadable", "its decoder crashed")))
            workers.stop()
        except TimeoutError:
            results.append(on_crash(item, Problem("unreadable", f"not decoded in {SECONDS_PER_CHUNK} s")))
            workers.stop()
    restarted = [(waiting, workers.submit(function, waiting)) for waiting, _ in under_way]
    under_way.clear()
    under_way.extend(restarted)
    return results


class Workers:
    """A pool of processes that starts on demand and can be stopped at once, hanging or not."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None
        resource_tracker.ensure_running()  # here, because it lets Ctrl-C through again: see `ctrl_c_later`

    def submit(self, function: Callable[[T], Any], chunk: list[T]) -> Future[list[Any]]:
        with ctrl_c_later():  # interrupted half-way, the pool would not know a worker that it has just started
            try:
                return self.started().submit(apply, function, chunk)
            except BrokenProcessPool:  # broken by an earlier chunk whose result is still to be read
                lost: Future[list[Any]] = Future()
                lost.set_exception(BrokenProcessPool())
                return lost

    def started(self) -> ProcessPoolExecutor:
        if self.pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["pipeline.images.decode", "pipeline.images.hashing"])
            self.pool = ProcessPoolExecutor(
                cores(),
                mp_context=context,
            )
        return self.pool

    def stop(self) -> None:
        if self.pool is not None:
            with ctrl_c_later():
                for process in list((self.pool._processes or {}).values()):
                    process.kill()
                # A result cut short would be waited for as long as somebody can still write
                self.pool._result_queue._writer.close()  # type: ignore[attr-defined]
                self.pool.shutdown(cancel_futures=True)  # waits: its thread must not outlive it to the exit
                self.pool = None


def apply(function: Callable[[T], Any], chunk: list[T]) -> list[Any]:
    return [function(item) for item in chunk]


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block.

    Processes that are started meanwhile inherit the signal mask and leave Ctrl-C to their parent for good. The mask
    is not enough for the parent: the signal finds another of its threads, such as those of BLAS.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one is ever interrupted
        yield
        return
    held_back: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held_back.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held_back:
            signal.raise_signal(signal.SIGINT)
