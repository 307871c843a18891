"""The study's loop in Lightning's Trainer, on the data set and the network of benchmarks.usual_loops.

usage: python -m benchmarks.lightning_loop < JOB.json
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.job import Stopwatch, read, tell
from benchmarks.trainer import loaded
from benchmarks.usual_loops import OPTIMIZERS, dataset, network
from pipeline.evaluation.inference import evaluate


class Study(lightning.LightningModule):
    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        super().__init__()
        self.model, self.chosen = model, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.chosen.name](self.model.parameters(), lr=self.chosen.lr)


def main() -> None:
    job = read()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.manual_seed(job.seed)
    study = Study(network(job), job.config.optimizer)
    options = {"shuffle": job.config.shuffle, "num_workers": job.workers, "pin_memory": job.device.type == "cuda"}
    loader = DataLoader(dataset(job, job.train_rows, augmented=True), job.batch_size, **options)
    trainer = lightning.Trainer(
        max_epochs=job.config.epochs,
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with Stopwatch(job.device) as watch:
        trainer.fit(study, loader)
    _, accuracy = evaluate(study.model.to(job.device), loaded(job).batches(job.test_rows))
    tell(job, seconds=watch.seconds, accuracy=accuracy)


if __name__ == "__main__":
    main()
