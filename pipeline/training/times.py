"""How long a training took: `.train_times/<fingerprint>.json`, of this machine alone.

It is no output: the same inputs would not give the same bytes. So git and DVC do not know it, and a clone that pulls a
model has none.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.system.outputs import write_json
from pipeline.system.project import root


@dataclass(frozen=True)
class TrainTime:
    """When a training began, for how long it ran, and on what."""

    start: float  # seconds since 1970
    train_seconds: float
    device: str  # cpu, or the name of the GPU
    threads: int  # of the CPU, in each process
    devices: int  # processes, one for each device
    # seconds until the end of each epoch, of the first training where there are several
    epochs: list[float] = field(default_factory=list)


class Stopwatch:
    """Counts the seconds of a training, those before interruptions too, as far as a checkpoint knows of them."""

    def __init__(self) -> None:
        self.start, self.began, self.before = time.time(), time.monotonic(), 0.0
        self.epochs: list[float] = []

    def seconds(self) -> float:
        return round(self.before + time.monotonic() - self.began, 3)

    def end_epoch(self) -> None:
        self.epochs.append(self.seconds())

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "seconds": self.seconds(), "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. Of several, the latest counts: it knows the seconds of those before it."""
        self.start = min(self.start, state["start"])
        self.before = max(self.before, state["seconds"])
        self.epochs = max(self.epochs, state["epochs"], key=len)


def write(fingerprint: str, train_time: TrainTime) -> None:
    write_json(file_of(fingerprint), asdict(train_time))


def read(fingerprint: str) -> TrainTime | None:
    """The time of the training with this fingerprint, which provenance.json has; None where it is not known here."""
    try:
        known: Any = json.loads(file_of(fingerprint).read_text())
        return TrainTime(**known)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def file_of(fingerprint: str) -> Path:
    return root() / ".train_times" / f"{fingerprint}.json"
