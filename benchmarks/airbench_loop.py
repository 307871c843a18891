"""The CIFAR-10 speed runs' own network and loop, as their package airbench has them, on the images of a job.

usage: python -m benchmarks.airbench_loop < JOB.json

On CUDA it warms up first, as its author times it. It knows nothing else: on a CPU, its calls to CUDA are made to leave
everything where it is, in float32.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import airbench
import numpy as np
import torch
from airbench.lib_airbench94 import hyp
from torch import Tensor, nn

from benchmarks.job import Job, Stopwatch, read, tell

FOLDER = Path("cifar10")  # where airbench looks for its files, below the working directory


def main() -> None:
    job = read()
    size = hyp["opt"]["batch_size"]
    if len(job.train_rows) < size:
        sys.exit(f"error: airbench takes whole batches of {size} images: expected --images {size} or more")
    if job.device.type == "cpu":
        stay_on_cpu()
    torch.manual_seed(job.seed)
    with tempfile.TemporaryDirectory(prefix="airbench-") as folder:
        images = np.load(job.packed / "images.npy", mmap_mode="r")
        os.chdir(folder)
        FOLDER.mkdir()
        for side, rows in (("train", job.train_rows), ("test", job.test_rows)):
            data = {"images": torch.from_numpy(images[rows]), "labels": torch.from_numpy(job.labels[rows])}
            torch.save({**data, "classes": job.meta["classes"]}, FOLDER / f"{side}.pt")
        accuracy, seconds = trained(job)
    tell(job, seconds=seconds, accuracy=accuracy)


def trained(job: Job) -> tuple[float, float]:
    """Accuracy on test images, mirrored and shifted as airbench does it, and seconds of training."""
    loader = airbench.utils.CifarLoader
    if job.device.type == "cuda":
        airbench.warmup94()
    train = loader(str(FOLDER), batch_size=hyp["opt"]["batch_size"], aug=hyp["aug"], altflip=True)
    with Stopwatch(job.device) as watch:
        model = airbench.train94(train, epochs=job.config.epochs, verbose=False)
    test = loader(str(FOLDER), train=False)
    return airbench.evaluate(model, test, hyp["net"]["tta_level"]), watch.seconds


def stay_on_cpu() -> None:
    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self: self  # type: ignore[assignment, method-assign]
        kind.half = kind.float  # type: ignore[method-assign]
    torch.cuda.synchronize = lambda: None  # type: ignore[assignment]
    event = SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 0.0)
    torch.cuda.Event = lambda **_: event  # type: ignore[assignment]
    airbench.utils.CifarLoader = partial(airbench.utils.CifarLoader, gpu="cpu")


if __name__ == "__main__":
    main()
