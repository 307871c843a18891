"""The process that trains, told by its id and its start: the system gives the id of one that has ended to another."""

from __future__ import annotations

from pathlib import Path

from pipeline.system.outputs import is_running


def identity(process: int) -> str:
    """The id of a process and, where the system tells it, its start."""
    return " ".join(filter(None, (str(process), start_of(process))))


def has_ended(identity: str) -> bool:
    """Whether the process of an identity runs no more, also where another one has its id; False for what is none."""
    process, _, start = identity.partition(" ")
    if not process.isdecimal():
        return False
    now = start_of(int(process))
    return not is_running(int(process)) or bool(start and now and start != now)


def start_of(process: int) -> str | None:
    """When a process started, in clock ticks since the machine did, which no setting of its clock changes.

    Only Linux tells it so. None elsewhere, and for a process that is not there or not shown.
    """
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    return status.rpartition(b")")[2].split()[19].decode()
