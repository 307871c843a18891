"""Worker processes of this machine, one for each core. They start on demand and can be stopped even if they hang."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util
from typing import TypeAlias, TypeVar, cast

from pipeline.system import memory
from pipeline.system.memory import MOST_MEMORY

T = TypeVar("T")  # an item
R = TypeVar("R")  # its result
Function: TypeAlias = Callable[[list[T]], Iterable[R]]  # of a chunk; gives one result for each of its items
LONGEST = 70  # bytes of a folder for sockets: macOS allows 103 for the path of one, and multiprocessing adds 32
KEPT = 64 * 1024**2  # bytes of freed memory that a worker keeps for the next image
SECONDS_TO_END = 2  # of workers that were told to
KILLED = (-signal.SIGKILL, 255)  # exit codes of a worker that was killed, and of all workers whose server was killed


class OutOfMemory(Exception):
    """The machine has too little memory for a chunk. The message says how that showed."""


class WorkerCrashed(Exception):
    """The worker of a chunk ended by itself."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """The workers of this machine, with the methods of `workers.Workers`."""

    crashes: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self) -> None:
        self.width = cores()
        self.pool: ProcessPoolExecutor | None = None
        start_server()

    def submit(self, function: Function[T, R], chunk: list[T]) -> Future[list[R]]:
        with ctrl_c_later():  # otherwise the pool might not know of a worker that it has just started
            try:
                return self.started().submit(apply, function, chunk)
            except BrokenProcessPool:  # an earlier chunk broke the pool; its result is still to be read
                return lost()
            except OSError as error:  # broken right now: the pool's thread has closed the pipes of a new worker
                if error.errno not in (None, errno.EBADF):
                    raise
                return lost()

    def started(self) -> ProcessPoolExecutor:
        if self.pool is None:
            context = multiprocessing.get_context("forkserver")
            self.pool = ProcessPoolExecutor(self.width, mp_context=context, initializer=prepare)
        return self.pool

    def alone(self, function: Function[T, R], chunk: list[T], seconds: float) -> list[R]:
        try:
            return self.submit(function, chunk).result(seconds)
        except MemoryError:
            self.stop()
            raise OutOfMemory(f"its worker was refused memory, with {memory.in_words()} to itself") from None
        except (TimeoutError, BrokenProcessPool) as failure:
            killed = self.was_killed()
            self.stop()
            if killed:
                raise OutOfMemory(f"its worker was killed, with {memory.in_words()} to itself") from None
            raise failure if isinstance(failure, TimeoutError) else WorkerCrashed from None

    def recover(self, future: object, others: object, seconds: float) -> None:
        if self.was_killed():
            self.width = max(1, self.width // 2)  # otherwise they would be killed again
        self.stop()

    def was_killed(self) -> bool:
        """Whether a worker was killed, as the kernel does where memory is short, rather than crashed."""
        if self.pool is None:
            return False
        if self.pool._broken:
            # The pool's thread ends the workers that it knows and waits for them, asking for their exit codes. For one
            # that started at that moment it would wait for ever.
            thread = cast(threading.Thread, self.pool._executor_manager_thread)
            while thread.is_alive():
                thread.join(SECONDS_TO_END)
                for process in list((self.pool._processes or {}).values()):
                    process.terminate()
        return any(process.exitcode in KILLED for process in (self.pool._processes or {}).values())

    def is_lost(self, future: object) -> bool:
        assert isinstance(future, Future)
        return future.cancelled() or (future.done() and isinstance(future.exception(), BrokenProcessPool))

    def stop(self) -> None:
        if self.pool is not None:
            with ctrl_c_later():
                for process in list((self.pool._processes or {}).values()):
                    process.kill()
                # The pool would wait for the rest of a result as long as this end of the pipe is open
                self.pool._result_queue._writer.close()  # type: ignore[attr-defined]
                self.pool.shutdown(cancel_futures=True)  # waits for the pool's thread to end
                self.pool = None


def lost() -> Future[list[R]]:
    """The future of a chunk that has to be submitted again."""
    future: Future[list[R]] = Future()
    future.set_exception(BrokenProcessPool())
    return future


def start_server(*modules: str) -> None:
    """Start the server that workers are forked from, unless it runs. It imports these modules once for all workers."""
    resource_tracker.ensure_running()  # first, because this lets Ctrl-C through: see `ctrl_c_later`
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is a worker on each core already
    forkserver.set_forkserver_preload([*modules, __name__])
    make_folder_for_sockets()
    with ctrl_c_later():
        forkserver.ensure_running()


def make_folder_for_sockets() -> None:
    """Let multiprocessing make its temporary folder in /tmp if a socket in TMPDIR would have too long a path.

    Python 3.14 does so itself.
    """
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
        usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            util.get_temp_dir()  # it is made once, by the first who asks, and removed when the process ends
        finally:
            tempfile.tempdir = usual


def apply(function: Function[T, R], chunk: list[T]) -> list[R]:
    return list(function(chunk))


def prepare() -> None:
    """Set up a worker process."""
    threading.Thread(target=end_with_stage, daemon=True).start()
    memory.keep_freed(KEPT)
    memory.limit(MOST_MEMORY)
    memory.go_first()


def end_with_stage() -> None:
    """End this worker when its stage has been killed, because it would wait for work forever."""
    stage = multiprocessing.parent_process()
    assert stage is not None
    stage.join()
    os._exit(1)


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block.

    Processes that are started in the block inherit the signal mask, so that Ctrl-C only ever reaches their parent. For
    the parent, the mask is not enough, because the signal reaches another of its threads, such as those of BLAS.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    held_back: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: held_back.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held_back:
            signal.raise_signal(held_back[0])
