"""Apply a function to many items on all cores, in order, with bounded memory.

An item that crashes or hangs its worker takes only itself down: its chunk is repeated one item at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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

    def submit(self, function: Callable[[T], Any], chunk: list[T]) -> Future[list[Any]]:
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
            self.pool = ProcessPoolExecutor(cores(), mp_context=context, initializer=leave_ctrl_c_to_parent)
        return self.pool

    def stop(self) -> None:
        if self.pool is not None:
            processes = list((self.pool._processes or {}).values())
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            self.pool = None


def apply(function: Callable[[T], Any], chunk: list[T]) -> list[Any]:
    return [function(item) for item in chunk]


def leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
