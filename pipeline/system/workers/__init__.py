"""Apply a function to many images, in order, with bounded memory: on all cores, or on a Dask cluster.

If a worker crashes or hangs, the images of its chunk are tried again one by one, in a single worker that has all the
memory. Only an image that crashes or hangs this worker too is given up. If there is not enough memory even then, the
stage stops, because that is not the fault of the image.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from pipeline.system.console import UserError
from pipeline.system.workers.pool import Function, OutOfMemory, Pool, R, T, WorkerCrashed, start_server

T_co = TypeVar("T_co", covariant=True)  # what a future gives
CHUNK_ITEMS, CHUNK_BYTES = 256, 2 * 1024**2  # that are sent to a worker at once
SECONDS_PER_CHUNK = 120  # a worker that takes longer hangs
CRASHED, LATE = "its decoder crashed", "not decoded in"  # beginnings of the reason why an image was given up
SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # the environment variable that names a Dask cluster


class AnyFuture(Protocol[T_co]):
    """A future of concurrent.futures or of Dask."""

    def result(self, timeout: float) -> T_co: ...


class Workers(Protocol):
    """Worker processes, on this machine or elsewhere."""

    crashes: tuple[type[Exception], ...]  # exceptions of a future whose worker has died
    width: int  # chunks that are worked on at the same time

    def submit(self, function: Function[T, R], chunk: list[T]) -> AnyFuture[list[R]]: ...

    def alone(self, function: Function[T, R], chunk: list[T], seconds: float) -> list[R]:
        """The results of a chunk, with no other at the same time. Raises OutOfMemory, WorkerCrashed or TimeoutError."""

    def recover(self, future: AnyFuture[Any], others: list[AnyFuture[Any]], seconds: float) -> None:
        """After a crash or time-out of `future`, stop what hangs and wait until no chunk is worked on."""

    def is_lost(self, future: AnyFuture[Any]) -> bool:
        """Whether a chunk has to be submitted again after `recover`."""

    def stop(self) -> None: ...


def ordered_map(
    function: Function[T, R],
    items: Iterable[T],
    size: Callable[[T], int],
    on_crash: Callable[[T, str], R],
    name: Callable[[T], str] = str,
) -> Iterator[R]:
    """Yield the result of each item, in order.

    `function` takes a chunk of items and gives the result of each; it raises MemoryError where the machine has too
    little memory. `size` is the number of bytes of an item, by which chunks are kept small. `on_crash` gives the result
    for an item whose worker crashed or took longer than SECONDS_PER_CHUNK, from the item and the reason. `name` is the
    item's name in messages. Raises UserError if memory does not suffice for an item even in a single worker.
    """
    workers = start_workers()
    under_way: deque[tuple[list[T], AnyFuture[list[R]]]] = deque()
    try:
        for chunk in chunks(items, size):
            under_way.append((chunk, workers.submit(function, chunk)))
            while len(under_way) > 3 * workers.width:
                yield from finish(workers, function, under_way, on_crash, name)
        while under_way:
            yield from finish(workers, function, under_way, on_crash, name)
    finally:
        workers.stop()


def warm_up(module: str) -> None:
    """Start the server that workers are forked from, and let it import the module of the function to be mapped.

    A stage calls this first, because the import runs in parallel to the stage's own.
    """
    if SCHEDULER not in os.environ:
        start_server(module)


def start_workers() -> Workers:
    """Workers of the Dask cluster that the environment names, or else of this machine."""
    if address := os.environ.get(SCHEDULER):
        from pipeline.system.workers.cluster import Cluster

        return Cluster(address)
    return Pool()


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Divide items into chunks of at most CHUNK_ITEMS, and of little more than CHUNK_BYTES."""
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
    function: Function[T, R],
    under_way: deque[tuple[list[T], AnyFuture[list[R]]]],
    on_crash: Callable[[T, str], R],
    name: Callable[[T], str],
) -> list[R]:
    """The results of the oldest chunk. After a crash, the chunks that were lost with it are submitted again."""
    chunk, future = under_way.popleft()
    failures: tuple[type[Exception], ...] = (TimeoutError, MemoryError, *workers.crashes)
    try:
        return list(future.result(SECONDS_PER_CHUNK))
    except failures:
        workers.recover(future, [waiting for _, waiting in under_way], SECONDS_PER_CHUNK)
    results = []
    for item in chunk:
        try:
            results += alone(workers, function, item, name(item))
        except TimeoutError:
            results.append(on_crash(item, f"{LATE} {SECONDS_PER_CHUNK} s"))
        except WorkerCrashed:
            results.append(on_crash(item, CRASHED))
    again = [
        (waiting, workers.submit(function, waiting) if workers.is_lost(future) else future)
        for waiting, future in under_way
    ]
    under_way.clear()
    under_way.extend(again)
    return results


def alone(workers: Workers, function: Function[T, R], item: T, name: str) -> list[R]:
    """The result of one item, in a list. Raises WorkerCrashed, TimeoutError, and UserError if memory is too short."""
    try:
        return workers.alone(function, [item], SECONDS_PER_CHUNK)
    except OutOfMemory:  # try again: a person may have killed the worker
        pass
    try:
        return workers.alone(function, [item], SECONDS_PER_CHUNK)
    except OutOfMemory as short:
        raise UserError(
            f"{name}: not enough memory to decode it: {short}: give this machine, container or job more, or take the"
            " image out of the data set, then run it again"
        ) from None
