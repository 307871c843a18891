"""Where a result comes from: who trained it, when, on what, and from which commit."""

from __future__ import annotations

import getpass
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.commit import git_state, last_change
from pipeline.training import times


@dataclass
class Origin:
    """What is known here of a training: much of one on this machine, less of a result that was pulled."""

    commit: str | None
    dirty: str | None  # "true" or "false": whether the code differs from the commit
    user: str | None
    start: float | None  # seconds since 1970
    time: times.TrainTime | None  # None if it was trained elsewhere

    def tags(self) -> dict[str, str | None]:
        """Tags of the run, in MLflow's names where it has some."""
        known = {
            "mlflow.user": self.user,
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": "dvc.yaml",
            "mlflow.source.git.commit": self.commit,
            "git.dirty": self.dirty,
            "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        }
        if self.time is None:
            return known
        return {**known, "device": self.time.device, "host": machine()}


def here(start: float | None, time: times.TrainTime | None = None) -> Origin:
    """The origin of what is trained on this machine."""
    return Origin(*git_state(), user(), start, time)


def of_report(folder: Path, fingerprint: str | None) -> Origin:
    """The origin of the result in `reports/<experiment>`: the commit that has it, else the folder as it is.

    Who trained it and when is known exactly of a training here.
    """
    time = times.read(fingerprint) if fingerprint else None
    start = time.start if time else None
    if change := last_change(folder / "metrics.json"):
        return Origin(change.commit, "false", user() if time else change.author, start or change.seconds, time)
    return here(start, time)


def user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container that knows no name for the user's number
        return None


def machine() -> str:
    """The kind of this machine, without its name."""
    names = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", names.read_text(), re.MULTILINE) if names.exists() else None
    processor = found[1] if found else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"
