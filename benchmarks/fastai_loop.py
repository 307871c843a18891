"""The study's recipe in fastai's Learner, with fastai's own loading and augmentation: a batch at a time.

usage: python -m benchmarks.fastai_loop < JOB.json
"""

from __future__ import annotations

import warnings

import torch
from fastai.vision.all import Adam, CrossEntropyLossFlat, Flip, ImageDataLoaders, Learner, Normalize, Resize, Rotate

from benchmarks.engine import loaded
from benchmarks.job import Stopwatch, read, tell
from benchmarks.usual_loops import STATISTICS, network
from pipeline.evaluation.inference import evaluate


def main() -> None:
    job = read()
    warnings.filterwarnings("ignore")
    if job.files is None or job.recipe.optimizer.name != "adam":
        raise SystemExit("error: expected a recipe with Adam on photos in files")
    torch.manual_seed(job.seed)
    recipe, rows = job.recipe, job.train_rows
    loaders = ImageDataLoaders.from_lists(
        job.files,
        [job.files / path for path in job.index["path"].loc[rows]],
        [job.meta["classes"][label] for label in job.labels[rows]],
        valid_pct=0,
        item_tfms=Resize(job.shape[1]),
        batch_tfms=[
            Rotate(recipe.augment.rotation, p=1),
            Flip(recipe.augment.horizontal_flip),
            Normalize.from_stats(*STATISTICS[recipe.normalize]),
        ],
        bs=job.batch_size,
        num_workers=job.workers,
        device=job.device,
    )
    learner = Learner(loaders, network(job), CrossEntropyLossFlat(), opt_func=Adam, lr=recipe.optimizer.lr)
    with Stopwatch(job.device) as watch, learner.no_bar(), learner.no_logging():
        learner.fit(recipe.epochs)
    _, accuracy = evaluate(learner.model, loaded(job).batches(job.test_rows))
    tell(job, seconds=watch.seconds, accuracy=accuracy)


if __name__ == "__main__":
    main()
