"""From a packed data set and a config to a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.dataset.batches import Batches, resident_budget
from pipeline.dataset.packed import PackedDataset
from pipeline.networks import Shape, build
from pipeline.system import device as devices
from pipeline.system.console import UserError
from pipeline.training import loop
from pipeline.training.distributed import ALONE, Group
from pipeline.training.features import Features

SEEN_VALUES = 2**24  # pixels × channels, of the training images that a network may look at before it learns


class Trainer:
    """The images that a config (see experiments.Experiment) trains and validates on, on the device of this process.

    Raises UserError for a device that is not there, or where the config needs validation images and has none.
    """

    def __init__(self, packed: PackedDataset, config: Any, weights: Path | None = None, group: Group = ALONE) -> None:
        self.packed, self.config, self.weights, self.group = packed, config, weights, group
        self.device, self.threads = devices.select_device(config.compute, group.local_rank)
        devices.make_deterministic(self.device, self.threads, config.precision)
        group.connect(self.device)
        self.mean, self.std = packed.normalization(config.normalization())
        meta = packed.meta
        self.shape = Shape(meta["channels"], meta["height"], meta["width"], len(packed.classes))
        self.rows = packed.rows("train", *(["val"] if config.train_on_val else []), fraction=config.train_fraction)
        self.validation_rows = packed.rows() if config.train_on_val else packed.rows("val")
        if not len(self.validation_rows) and (config.checkpoint == "best" or config.patience):
            raise UserError(f"{config.dataset} has no validation images to pick an epoch by: raise its split.val")

    @cached_property
    def data(self) -> Batches:
        return self.batches(self.rows)

    @cached_property
    def validation(self) -> Batches | None:
        return self.batches(self.validation_rows) if len(self.validation_rows) else None

    def __str__(self) -> str:
        where = self.device if self.group.world_size == 1 else f"{self.group.world_size} × {self.device.type}"
        return f"{len(self.data):,} images, on {where} ({self.threads} threads)"

    def batches(self, rows: Any) -> Batches:
        compute = self.config.compute
        if compute.cache_mb != "auto":
            budget = compute.cache_mb * 1_000_000
        else:  # processes that share a machine's memory all hold images to train and to validate
            sharing = 2 * compute.devices if self.device.type == "cpu" and self.group.world_size > 1 else 1
            budget = resident_budget(self.device, sharing)
        return Batches(self.packed, rows, self.mean, self.std, self.device, budget)

    def network(self, seed: int) -> Any:
        """The network as it is before its first step."""
        torch.manual_seed(seed)
        model = build(self.config.network, self.shape, self.weights).to(self.device)
        if self.device.type == "cuda":  # augmented images come in either order; filters in this one decide
            model = model.to(memory_format=torch.channels_last)
        if initialize := getattr(model, "initialize", None):
            every = math.ceil(len(self.data) * math.prod(self.shape[:3]) / SEEN_VALUES)  # classes may lie in a row
            (pixels,) = self.data.batches([torch.arange(0, len(self.data), every, device=self.device)])
            initialize(self.data.images(pixels))
        if (
            self.group.world_size > 1 and self.device.type == "cuda"
        ):  # on the CPU each process has statistics of its own
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model

    def fit(
        self,
        model: Any,
        seed: int,
        saved: Path,
        features: Path,
        on_epoch: Callable[[list[loop.Row]], None] = lambda history: None,
    ) -> list[loop.Row]:
        """Train `model` in place and return its history; see loop.train.

        Of a frozen backbone, only the head trains, on what `features.Features` keeps in the folder `features`.
        """
        config, data, validation, trained = self.config, self.data, self.validation, model
        alone = self.group.world_size == 1
        if alone and getattr(config.network, "freeze", False) and not data.mixes(config.augment):
            trained = model.head
            data = Features(model.backbone, data, config, seed, features)  # type: ignore[assignment]
            if validation is not None:
                made = Features(model.backbone, validation, config, seed, features / "val")
                validation = made.unchanged()  # type: ignore[assignment]
        elif alone and config.batch_size == "full" and not data.draw(config.augment, seed, epoch=1).numel():
            data.normalize_once()
        return loop.train(trained, config, data, validation, seed, saved, on_epoch, self.group)
