"""A lock for each stage, so that no two processes write the same outputs."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from pipeline.system.console import UserError
from pipeline.system.parent import GRACE
from pipeline.system.project import CHECKPOINTS

PATIENCE = GRACE + 2  # seconds; by then, a stage has ended whose DVC was killed
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # the file system has no locks


@contextmanager
def alone(stage: str) -> Iterator[None]:
    """Run the block while no other process in this folder runs the same stage, such as `train@digits-mlp`.

    If one does, wait for PATIENCE seconds, then raise UserError, which names that process. The operating system frees
    the lock of a process that is killed.
    """
    path = CHECKPOINTS / f".{quote(stage, safe='@')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE
    while (file := take(path)) is None:
        if time.monotonic() > end:
            raise UserError(
                f"{stage} is being run by {owner(path)}, which writes the same files:"
                " wait until it has ended, or end it, then run this again"
            )
        time.sleep(0.1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still locked: see `take`
        os.close(file)


def take(path: Path) -> int | None:
    """Lock a file and write this process's id into it. Returns its descriptor, or None if another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            os.close(file)
            if isinstance(error, BlockingIOError):
                return None
            raise
    try:
        removed = not os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        removed = True
    if removed:  # by the process that had the lock before
        os.close(file)
        return None
    with suppress(OSError):  # a full disk: the lock works without the id
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {os.uname().nodename}".encode())
    return file


def owner(path: Path) -> str:
    """The process that has locked a file, as `take` has written it."""
    try:
        return path.read_text() or "another process"
    except FileNotFoundError:  # it has just ended
        return "another process"
