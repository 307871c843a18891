"""The study's experiment in fastai's Learner, with fastai's own loading and augmentation: a batch at a time.

usage: python -m benchmarks.fastai_loop < JOB.json
"""

from __future__ import annotations

import warnings

import torch
from fastai.vision.all import Adam, CrossEntropyLossFlat, Flip, ImageDataLoaders, Learner, Normalize, Resize, Rotate

from benchmarks.job import Stopwatch, read, tell
from benchmarks.trainer import loaded
from benchmarks.usual_loops import STATISTICS, network
from pipeline.evaluation.inference import evaluate


def main() -> None:
    job = read()
    warnings.filterwarnings("ignore")
    if job.files is None or job.config.optimizer.name != "adam":
        raise SystemExit("error: expected an experiment with Adam on photos in files")
    torch.manual_seed(job.seed)
    config, rows = job.config, job.train_rows
    loaders = ImageDataLoaders.from_lists(
        job.files,
        [job.files / path for path in job.index["path"].loc[rows]],
        [job.meta["classes"][label] for label in job.labels[rows]],
        valid_pct=0,
        item_tfms=Resize(job.shape[1]),
        batch_tfms=[
            Rotate(config.augment.rotation, p=1),
            Flip(config.augment.horizontal_flip),
            Normalize.from_stats(*STATISTICS[config.normalize]),
        ],
        bs=job.batch_size,
        num_workers=job.workers,
        device=job.device,
    )
    learner = Learner(loaders, network(job), CrossEntropyLossFlat(), opt_func=Adam, lr=config.optimizer.lr)
    with Stopwatch(job.device) as watch, learner.no_bar(), learner.no_logging():
        learner.fit(config.epochs)
    _, accuracy = evaluate(learner.model, loaded(job).batches(job.test_rows))
    tell(job, seconds=watch.seconds, accuracy=accuracy)


if __name__ == "__main__":
    main()
