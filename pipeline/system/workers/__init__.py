"""Apply a function to many images, in order, with bounded memory: on all cores, or on a Dask cluster.

An image that crashes or hangs its worker takes only itself down: its chunk is repeated one image at a time, in one
worker that has all memory to itself. If memory does not suffice even then, the stage stops: the image is not to blame.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from pipeline.system.console import UserError
from pipeline.system.workers.pool import Function, OutOfMemory, Pool, R, T, WorkerCrashed, start_server

Answer = TypeVar("Answer", covariant=True)  # what a future gives
CHUNK_ITEMS, CHUNK_BYTES = 256, 2 * 1024**2  # what travels to a worker at once
SECONDS_PER_CHUNK = 120  # a decoder that needs longer hangs
CRASHED, LATE = "its decoder crashed", "not decoded in"  # why an image was given up, as its reason begins
SCHEDULER = "DASK_SCHEDULER_ADDRESS"


class AnyFuture(Protocol[Answer]):
    """A future of concurrent.futures or of Dask."""

    def result(self, timeout: float) -> Answer: ...


class Workers(Protocol):
    """Processes, here or elsewhere."""

    crashes: tuple[type[Exception], ...]  # what a future raises whose worker has died
    width: int  # chunks that are worked on at the same time

    def submit(self, function: Function[T, R], chunk: list[T]) -> AnyFuture[list[R]]: ...

    def alone(self, function: Function[T, R], chunk: list[T], seconds: float) -> list[R]:
        """The results of a chunk while nothing else is worked on. Raises OutOfMemory, WorkerCrashed or TimeoutError."""

    def recover(self, future: AnyFuture[Any], others: list[AnyFuture[Any]], seconds: float) -> None:
        """Stop what hangs, after a crash or a time-out, so that no chunk is being worked on."""

    def is_lost(self, future: AnyFuture[Any]) -> bool:
        """Whether the recovery took the future along."""

    def stop(self) -> None: ...


def ordered_map(
    function: Function[T, R],
    items: Iterable[T],
    size: Callable[[T], int],
    on_crash: Callable[[T, str], R],
    name: Callable[[T], str] = str,
) -> Iterator[R]:
    """Yield the result of each item, in order.

    `size` gives the bytes of an item, to keep what is under way small; `on_crash` gives the result for an item whose
    worker crashed or took longer than SECONDS_PER_CHUNK, from the item and the reason; `name` is what people call it.
    A function raises MemoryError for an item that this machine has too little memory for. Raises UserError where it
    does not help to give all memory to one worker.
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

    A stage calls this first, because it goes on meanwhile.
    """
    if SCHEDULER not in os.environ:
        start_server(module)


def start_workers() -> Workers:
    if address := os.environ.get(SCHEDULER):
        from pipeline.system.workers.cluster import Cluster

        return Cluster(address)
    return Pool()


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
    function: Function[T, R],
    under_way: deque[tuple[list[T], AnyFuture[list[R]]]],
    on_crash: Callable[[T, str], R],
    name: Callable[[T], str],
) -> list[R]:
    """Results of the oldest chunk. Those that a crash took along are started again."""
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
    try:
        return workers.alone(function, [item], SECONDS_PER_CHUNK)
    except OutOfMemory:  # its worker may have been killed by a person
        pass
    try:
        return workers.alone(function, [item], SECONDS_PER_CHUNK)
    except OutOfMemory as short:
        raise UserError(
            f"{name}: not enough memory to decode it: {short}: give this machine, container or job more, or take the"
            " image out of the data set, then run it again"
        ) from None
