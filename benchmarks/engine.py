"""This project's own training, as the stage `train` calls it, timed; the other contender of benchmarks.usual_loops.

usage: python -m benchmarks.engine < JOB.json

Training is what the stage does between the data lying on the device and the trained network, checkpoints and history
included; evaluation is one look at the test set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from benchmarks.job import Job, Stopwatch, read, tell
from pipeline.evaluation.inference import evaluate
from pipeline.training.trainer import Trainer


def main() -> None:
    job = read()
    load, train, evaluation = (Stopwatch(job.device) for _ in range(3))
    with load:
        engine = loaded(job)
        test, model = engine.batches(job.test_rows), engine.network(job.seed)
    with train:
        fit(job, engine, model)
    with evaluation:
        _, accuracy = evaluate(model, test, job.recipe.tta)
    tell(
        job, seconds=train.seconds, load_seconds=load.seconds, evaluation_seconds=evaluation.seconds, accuracy=accuracy
    )


def loaded(job: Job) -> Trainer:
    engine = Trainer(job.data, job.recipe, job.weights)
    engine.rows, engine.validation_rows = job.train_rows, job.train_rows[:0]
    return engine


def fit(job: Job, engine: Trainer, model: nn.Module) -> None:
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        engine.fit(model, job.seed, Path(folder, "checkpoint.pt"), Path(folder, "features"))


if __name__ == "__main__":
    main()
