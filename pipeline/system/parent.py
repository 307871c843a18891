"""Ends a stage when the DVC process that started it has ended. Otherwise it would run beside the next `dvc repro`."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

STAGE = "DVC_STAGE"  # set by DVC for every command that it starts
PERIOD = 0.5  # seconds between two looks
GRACE = 4  # seconds to clean up in
ENDED = threading.Event()


def end_with_dvc() -> None:
    """Send this process a SIGTERM soon after the DVC process that started it has ended, if one did.

    If this process still runs GRACE seconds later, it exits at once; the next run removes what it left.
    """
    stage = os.environ.get(STAGE)
    if stage is None:
        return
    child, dvc = os.getpid(), parent_of(os.getpid())
    while dvc and in_stage(dvc, stage):  # a shell or another program between DVC and this process
        child, dvc = dvc, parent_of(dvc)
    if dvc != 0:  # 0: in a container of its own, which does not show what started it
        threading.Thread(target=watch, args=(child, dvc, stage), daemon=True).start()


def watch(child: int, dvc: int | None, stage: str) -> None:
    if dvc is not None and not is_adopted(child, dvc, stage):
        while parent_of(child) == dvc:
            time.sleep(PERIOD)
    ENDED.set()
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)  # to this thread, so that it wakes up where it waits
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def is_adopted(child: int, by: int, stage: str) -> bool:
    """Whether DVC had ended before this process looked for it: what DVC starts is in its process group."""
    try:
        group = os.getpgid(child)
        return group != os.getpgid(by) and not in_stage(group, stage)
    except ProcessLookupError:
        return True


def in_stage(process: int, stage: str) -> bool:
    """Whether a process works for the stage. Only Linux tells of others; most shells replace themselves anyway."""
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return process == os.getpid()
    return os.fsencode(f"{STAGE}={stage}") in environment.split(b"\0")


def parent_of(process: int) -> int | None:
    """The number of a process's parent; None where it has ended."""
    if process == os.getpid():
        return os.getppid()
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    return int(status.rpartition(b")")[2].split()[1])
