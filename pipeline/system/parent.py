"""End a stage when the DVC process that started it has ended. Otherwise it would run beside the next `dvc repro`."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

STAGE = "DVC_STAGE"  # set by DVC for every command that it starts
PERIOD = 0.5  # seconds between two looks
GRACE = 4  # seconds in which the stage cleans up
ENDED = threading.Event()  # set when DVC has ended


def end_with_dvc() -> None:
    """If DVC started this process, send it SIGTERM soon after DVC has ended.

    If it still runs GRACE seconds later, it exits at once; the next run removes what it has left.
    """
    stage = os.environ.get(STAGE)
    if stage is None:
        return
    child, dvc = os.getpid(), parent_of(os.getpid())
    while dvc and in_stage(dvc, stage):  # there is a shell, or another program, in between
        child, dvc = dvc, parent_of(dvc)
    if dvc != 0:  # 0: DVC is outside of the container that this process is in
        threading.Thread(target=watch, args=(child, dvc, stage), daemon=True).start()


def watch(child: int, dvc: int | None, stage: str) -> None:
    """Wait until `dvc` is no longer the parent of `child`, then end this process. Runs in a thread."""
    if dvc is not None and not is_adopted(child, dvc, stage):
        while parent_of(child) == dvc:
            time.sleep(PERIOD)
    ENDED.set()
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)  # a signal to the process would not wake up the main thread
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def is_adopted(child: int, by: int, stage: str) -> bool:
    """Whether `by` is not DVC but has adopted `child`, because DVC had already ended.

    DVC and what it starts are in the same process group.
    """
    try:
        group = os.getpgid(child)
        return group != os.getpgid(by) and not in_stage(group, stage)
    except ProcessLookupError:
        return True


def in_stage(process: int, stage: str) -> bool:
    """Whether a process has the stage in its environment.

    Only Linux shows that of other processes. Elsewhere a shell in between is not found, but most shells replace
    themselves by the command.
    """
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return process == os.getpid()
    return os.fsencode(f"{STAGE}={stage}") in environment.split(b"\0")


def parent_of(process: int) -> int | None:
    """The id of a process's parent; None if the process has ended."""
    if process == os.getpid():
        return os.getppid()
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    return int(status.rpartition(b")")[2].split()[1])
