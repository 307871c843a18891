"""The workers of a Dask cluster. DASK_SCHEDULER_ADDRESS names its scheduler.

Every worker runs in a clone of this project at the same commit, and reads the images itself.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.system.console import UserError
from pipeline.system.credentials import hide_in, redacted
from pipeline.system.version import version
from pipeline.system.workers.apart import apply_apart
from pipeline.system.workers.pool import Function, OutOfMemory, R, T, apply

if TYPE_CHECKING:
    from pipeline.system.workers import AnyFuture


class Cluster:
    """The workers of a Dask cluster, with the methods of `workers.Workers`."""

    def __init__(self, address: str) -> None:
        from distributed import Client, KilledWorker
        from distributed.comm.addressing import parse_address
        from distributed.comm.registry import get_backend

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors come back as exceptions
        self.crashes: tuple[type[Exception], ...] = (KilledWorker,)
        try:
            get_backend(parse_address(address)[0])  # with an unknown protocol, a client would wait forever
            self.client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"DASK_SCHEDULER_ADDRESS={hide_in(address)}: no scheduler answers there ({redacted(error, address)})"
            ) from None
        self.compare_code()
        self.width = sum(self.client.nthreads().values())

    def compare_code(self) -> None:
        """Raise UserError unless all workers have the same code and packages as this process."""
        try:
            theirs = self.client.run(version)
        except (ImportError, AttributeError, RuntimeError) as error:
            self.client.close()
            raise UserError(
                f"the Dask workers can't import this project ({error}): start them in a clone of it, with its packages"
            ) from None
        ours = version()
        different = sorted(worker for worker, their in theirs.items() if their != ours)
        if different or not theirs:
            self.client.close()
            raise UserError(
                f"Dask worker {different[0]} runs another version of this project or its packages: update its clone"
                if different
                else "the Dask scheduler has no workers: start some in clones of this project with `dask worker`"
            )

    def submit(self, function: Function[T, R], chunk: list[T]) -> AnyFuture[list[R]]:
        return self.client.submit(apply, function, chunk, pure=False)

    def alone(self, function: Function[T, R], chunk: list[T], seconds: float) -> list[R]:
        for apart in (False, True):
            again = (apply_apart, function, chunk, seconds) if apart else (apply, function, chunk)
            future = self.client.submit(*again, pure=False)
            try:
                results: list[R] = future.result(seconds)
                return results
            except MemoryError:
                raise OutOfMemory("its Dask worker was refused memory") from None
            except TimeoutError:
                self.recover(future, [], seconds)
                raise
            except self.crashes:
                continue
        raise OutOfMemory("its Dask worker was killed")  # the decoder ran in another process

    def recover(self, future: Any, others: list[AnyFuture[Any]], seconds: float) -> None:
        """Restart workers that still work on the future, and wait for the others. Dask has replaced those that died."""
        hanging = [worker for worker, keys in self.client.processing().items() if future.key in keys]
        future.cancel()
        if hanging:
            self.client.restart_workers(hanging, timeout=60, raise_for_error=False)
        from distributed import wait

        with self.client.as_current(), suppress(TimeoutError):
            wait(others, timeout=seconds)

    def is_lost(self, future: object) -> bool:
        return False  # Dask gives the chunks of a dead worker to another one

    def stop(self) -> None:
        with suppress(OSError, TimeoutError):
            self.client.close()
