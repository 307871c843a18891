"""This project's own training, as the stage `train` calls it, timed; the other contender of benchmarks.usual_loops.

usage: python -m benchmarks.engine < JOB.json

Training is what the stage does between the data lying on the device and the trained network, checkpoints and history
included; evaluation is one look at the test set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.job import Stopwatch, read, tell
from pipeline.networks import Shape, build
from pipeline.training import loop
from pipeline.training.data import Batches, Packed
from pipeline.training.device import make_deterministic


def main() -> None:
    job = read()
    load, train, evaluation = (Stopwatch(job.device) for _ in range(3))
    with load:
        make_deterministic(job.device, torch.get_num_threads())
        packed = Packed(job.packed)
        mean, std = packed.normalization(job.recipe.normalize)
        data, test = (Batches(packed, rows, mean, std, job.device) for rows in (job.train_rows, job.test_rows))
        torch.manual_seed(job.seed)
        model = build(job.recipe.network, Shape(*job.shape, len(packed.classes)), job.weights).to(job.device)
    with tempfile.TemporaryDirectory(prefix="engine-") as folder, train:
        loop.train(model, job.recipe, data, None, job.seed, Path(folder, "checkpoint.pt"))
    with evaluation:
        _, accuracy = loop.evaluate(model, test)
    tell(
        job, seconds=train.seconds, load_seconds=load.seconds, evaluation_seconds=evaluation.seconds, accuracy=accuracy
    )


if __name__ == "__main__":
    main()
