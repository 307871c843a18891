"""This project's own training, as the stage `train` calls it, timed; the other contender of benchmarks.usual_loops.

usage: python -m benchmarks.trainer < JOB.json

Training is what the stage does between the data lying on the device and the trained network, checkpoints and history
included; evaluation is one look at the test set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from benchmarks.job import Job, Stopwatch, read, tell
from pipeline.evaluation.inference import evaluate
from pipeline.system.device import make_deterministic, select_device
from pipeline.training.data import TrainingData
from pipeline.training.distributed import ALONE
from pipeline.training.model import has_small_steps, make_model
from pipeline.training.trainer import Trainer


def main() -> None:
    job = read()
    load, train, evaluation = (Stopwatch(job.device) for _ in range(3))
    with load:
        data = loaded(job)
        test, model = data.batches(job.test_rows), make_model(data, job.seed, job.weights)
    with train:
        fit(job, data, model)
    with evaluation:
        _, accuracy = evaluate(model, test, job.config.tta)
    tell(
        job, seconds=train.seconds, load_seconds=load.seconds, evaluation_seconds=evaluation.seconds, accuracy=accuracy
    )


def loaded(job: Job) -> TrainingData:
    device, threads = select_device(job.config.compute, small_steps=has_small_steps(job.config, job.data))
    make_deterministic(device, threads, job.config.precision, job.config.compute.portable)
    data = TrainingData(job.data, job.config, device, ALONE)
    data.train_rows, data.val_rows = job.train_rows, job.train_rows[:0]
    return data


def fit(job: Job, data: TrainingData, model: nn.Module) -> None:
    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        trained, train_data, val_data = data.for_model(model, job.seed, Path(folder, "features"))
        Trainer(trained, job.config, train_data, val_data, job.seed, Path(folder, "checkpoint.pt")).fit()


if __name__ == "__main__":
    main()
