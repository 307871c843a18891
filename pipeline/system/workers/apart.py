"""Run a chunk in a process of its own, on a Dask worker. Its exit code tells why it died, which Dask does not say."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys

from pipeline.system import memory
from pipeline.system.workers.pool import Function, OutOfMemory, R, T, WorkerCrashed, apply


def apply_apart(function: Function[T, R], chunk: list[T], seconds: float) -> list[R]:
    """Apply a function to a chunk in a new process that has at most `seconds`.

    Raises OutOfMemory if the process was killed, WorkerCrashed if it ended by itself, TimeoutError if it was too slow.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", __name__], input=pickle.dumps((function, chunk)), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if ran.returncode == -signal.SIGKILL:
        raise OutOfMemory(f"its process was killed, with {memory.in_words()} there")
    if ran.returncode:
        raise WorkerCrashed
    answer = pickle.loads(ran.stdout)
    if isinstance(answer, Exception):
        raise answer
    results: list[R] = answer
    return results


def main() -> None:
    memory.limit(memory.MOST_MEMORY)
    memory.go_first()
    try:
        answer: object = apply(*pickle.load(sys.stdin.buffer))
    except Exception as error:  # it is raised in the parent
        answer = error
    pickle.dump(answer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
