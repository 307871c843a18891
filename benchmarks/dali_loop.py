"""The study's loop with DALI, which reads, decodes, turns, flips and normalizes the photos, on the CPU or on the GPU.

usage: python -m benchmarks.dali_loop < JOB.json
"""

from __future__ import annotations

import os
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIClassificationIterator
from torch import nn

from benchmarks.job import Job, Stopwatch, read, tell
from benchmarks.trainer import loaded
from benchmarks.usual_loops import OPTIMIZERS, STATISTICS, network
from pipeline.evaluation.inference import evaluate


@pipeline_def  # type: ignore[untyped-decorator]
def photos(job: Job, gpu: bool) -> Any:
    augment, height = job.config.augment, job.shape[1]
    files = [str(job.files / path) for path in job.index["path"].loc[job.train_rows]]
    encoded, labels = fn.readers.file(
        files=files, labels=job.labels[job.train_rows].tolist(), random_shuffle=job.config.shuffle, name="photos"
    )
    images = fn.decoders.image(encoded, device="mixed" if gpu else "cpu", output_type=types.RGB)
    angle = fn.random.uniform(range=(-augment.rotation, augment.rotation))
    images = fn.rotate(images, angle=angle, interp_type=types.INTERP_NN, fill_value=0, keep_size=True)
    images = fn.resize(images, resize_shorter=height)
    mean, std = ([255 * value for value in values] for values in STATISTICS[job.config.normalize])
    mirrored = fn.random.coin_flip(probability=augment.horizontal_flip)
    crop = {"crop": (height, height), "mirror": mirrored, "mean": mean, "std": std}
    return fn.crop_mirror_normalize(images, output_layout="CHW", dtype=types.FLOAT, **crop), labels


def main() -> None:
    job = read()
    gpu = job.device.type == "cuda"
    torch.manual_seed(job.seed)
    options = {"batch_size": job.batch_size, "num_threads": job.workers or os.cpu_count(), "seed": job.seed}
    made = photos(job, gpu, device_id=(job.device.index or 0) if gpu else None, **options)
    loader = DALIClassificationIterator(
        made, reader_name="photos", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    model = network(job).to(job.device)
    optimizer = OPTIMIZERS[job.config.optimizer.name](model.parameters(), lr=job.config.optimizer.lr)
    with Stopwatch(job.device) as watch:
        for _ in range(job.config.epochs):
            for (batch,) in loader:
                labels = batch["label"].flatten().long().to(job.device)
                loss = nn.functional.cross_entropy(model(batch["data"]), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    _, accuracy = evaluate(model, loaded(job).batches(job.test_rows))
    tell(job, seconds=watch.seconds, accuracy=accuracy)


if __name__ == "__main__":
    main()
