"""Where a result comes from: who trained it, when, on what, and from which commit.

`.origins/<hash of the result>.json` keeps what was known when the result was logged for the first time: commits that
follow, and the experiment that DVC runs then, are not those that it comes from.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.system.outputs import write_json
from pipeline.system.project import root
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
    dvc_experiment: str | None

    def tags(self) -> dict[str, str | None]:
        """Tags of the run, in MLflow's names where it has some."""
        known = {
            "mlflow.user": self.user,
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": "dvc.yaml",
            "mlflow.source.git.commit": self.commit,
            "git.dirty": self.dirty,
            "dvc.exp_name": self.dvc_experiment,
        }
        if self.time is None:
            return known
        return {**known, "device": self.time.device, "host": machine()}


def here(start: float | None, time: times.TrainTime | None = None) -> Origin:
    """The origin of what is trained on this machine."""
    return Origin(*git_state(), user(), start, time, os.environ.get("DVC_EXP_NAME"))


def of_result(result: str, folder: Path, fingerprint: str | None) -> Origin:
    """The origin of the result with this hash, as it was when this was asked for the first time."""
    file = root() / ".origins" / f"{result}.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        time = known.pop("time")
        return Origin(**known, time=time and times.TrainTime(**time))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        origin = of_report(folder, fingerprint)
        with suppress(OSError):  # as of a full disk: it is logged all the same
            write_json(file, asdict(origin))
        return origin


def of_report(folder: Path, fingerprint: str | None) -> Origin:
    """The origin of what `reports/<experiment>` holds: the commit that has it, else the folder as it is now.

    Who trained it and when is known exactly of a training here.
    """
    time = times.read(fingerprint) if fingerprint else None
    start = time.start if time else None
    if change := last_change(folder / "metrics.json"):
        author, start = (user() if time else change.author), start or change.seconds
        return Origin(change.commit, "false", author, start, time, os.environ.get("DVC_EXP_NAME"))
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
