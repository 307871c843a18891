"""What a contender of `benchmarks.train` is told, as JSON on its standard input, and what all of them share.

A contender imports torch, torchvision, numpy, pandas, pyarrow, tqdm and xxhash and nothing of DVC, MLflow or pydantic,
so that it also runs on a bare machine with a GPU. A job is an experiment as `params.yaml` has it, with every default
filled in, the folder of packed images, and what the command line said: images, device, workers.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.dataset.packed import PackedDataset

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Job:
    """One experiment on one data set, on one device."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.config: Any = named(told["config"])
        self.config.compute.device = told["device"]
        self.config.normalization = lambda: self.config.normalize
        self.config.network.builder = self.torchvision_builder
        self.seed: int = told["seed"]
        self.packed = Path(told["packed"])
        self.files = Path(told["files"]) if told["files"] else None
        self.weights = Path(told["weights"]) if told["weights"] else None
        self.images: int | None = told["images"]
        self.device = torch.device(told["device"])
        self.workers: int = told["workers"]

    def torchvision_builder(self) -> Any:
        """What builds the network of an experiment with one of torchvision's, as in its config."""
        from torchvision import models

        return models.get_model_builder(self.config.network.model)

    @cached_property
    def data(self) -> PackedDataset:
        return PackedDataset(self.packed, self.packed.parents[1] / "splits" / f"{self.packed.name}.parquet")

    @property
    def meta(self) -> dict[str, Any]:
        return {**self.data.meta, "classes": self.data.classes}

    @property
    def index(self) -> pd.DataFrame:
        """Path, class and split of each image that is used, by its position among the packed ones."""
        return self.data.table

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of the packed images to train on, in file order: `images` of them evenly spaced, or repeated."""
        splits = ["train", "val"] if self.config.train_on_val else ["train"]
        return self.thinned(self.data.rows(*splits), self.images)

    @property
    def test_rows(self) -> np.ndarray:
        """All test images, or as many as train where there are fewer of those."""
        rows = self.data.rows("test")
        return self.thinned(rows, min(len(rows), self.images) if self.images else None)

    def thinned(self, rows: np.ndarray, count: int | None) -> np.ndarray:
        return rows if count is None else rows[np.arange(count) * len(rows) // count]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, of all packed images; -1 for one that is not used."""
        return self.data.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.meta["channels"], self.meta["height"], self.meta["width"]

    @property
    def batch_size(self) -> int:
        return len(self.train_rows) if self.config.batch_size == "full" else self.config.batch_size

    @property
    def steps(self) -> int:
        return self.config.epochs * math.ceil(len(self.train_rows) / self.batch_size)


class Stopwatch:
    """Seconds of a block, to the end of what it gave the device to do."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Stopwatch:
        self.start = self.now()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds += self.now() - self.start

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def read() -> Job:
    return Job(json.load(sys.stdin))


def tell(job: Job, **figures: Any) -> None:
    """Print the figures as the last line, with what was done and the peak memory of process and device, in MB."""
    figures |= {"images": len(job.train_rows), "test_images": len(job.test_rows), "steps": job.steps}
    figures["peak_mb"] = round(peak_bytes() / 2**20)
    if torch.cuda.is_initialized():
        figures["device_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print(json.dumps(figures))


def peak_bytes() -> int:
    """Of this process. What getrusage tells is, on Linux, that of the process that started this one, if larger."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Named(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment] # a config is hashable


def named(value: Any) -> Any:
    """Nested dicts as objects with attributes, and lists as tuples, as the trainer reads a config."""
    if isinstance(value, dict):
        return Named(**{key: named(item) for key, item in value.items()})
    return tuple(map(named, value)) if isinstance(value, list) else value
