"""From a packed data set and a recipe to a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.dataset.batches import Batches, resident_budget
from pipeline.dataset.packed import Packed
from pipeline.networks import Shape, build
from pipeline.system import device as devices
from pipeline.system.console import UserError
from pipeline.training import loop
from pipeline.training.distributed import ALONE, Group
from pipeline.training.features import Features

SEEN_VALUES = 2**24  # pixels × channels, of the training images that a network may look at before it learns


class Engine:
    """The images that a recipe (see recipes.Experiment) trains and validates on, on the device of this process.

    Raises UserError for a device that is not there, or where the recipe needs validation images and has none.
    """

    def __init__(self, packed: Packed, recipe: Any, weights: Path | None = None, group: Group = ALONE) -> None:
        self.packed, self.recipe, self.weights, self.group = packed, recipe, weights, group
        self.device, self.threads = devices.place(recipe.compute, group.local_rank)
        devices.make_deterministic(self.device, self.threads, recipe.precision)
        group.connect(self.device)
        self.mean, self.std = packed.normalization(recipe.normalize)
        meta = packed.meta
        self.shape = Shape(meta["channels"], meta["height"], meta["width"], len(packed.classes))
        self.rows = packed.rows("train", *(["val"] if recipe.whole_train else []), fraction=recipe.train_fraction)
        self.validation_rows = packed.rows() if recipe.whole_train else packed.rows("val")
        if not len(self.validation_rows) and (recipe.keep == "best" or recipe.patience):
            raise UserError(f"{recipe.dataset} has no validation images to pick an epoch by: raise its split.val")

    @cached_property
    def data(self) -> Batches:
        return self.batches(self.rows)

    @cached_property
    def validation(self) -> Batches | None:
        return self.batches(self.validation_rows) if len(self.validation_rows) else None

    def __str__(self) -> str:
        where = self.device if self.group.world == 1 else f"{self.group.world} × {self.device.type}"
        return f"{len(self.data):,} images, on {where} ({self.threads} threads)"

    def batches(self, rows: Any) -> Batches:
        compute = self.recipe.compute
        if compute.resident_mb != "auto":
            budget = compute.resident_mb * 1_000_000
        else:  # processes that share a machine's memory all hold images to train and to validate
            sharing = 2 * compute.devices if self.device.type == "cpu" and self.group.world > 1 else 1
            budget = resident_budget(self.device, sharing)
        return Batches(self.packed, rows, self.mean, self.std, self.device, budget)

    def network(self, seed: int) -> Any:
        """The network as it is before its first step."""
        torch.manual_seed(seed)
        model = build(self.recipe.network, self.shape, self.weights).to(self.device)
        if self.device.type == "cuda":  # augmented images come in either order; filters in this one decide
            model = model.to(memory_format=torch.channels_last)
        if initialize := getattr(model, "initialize", None):
            every = math.ceil(len(self.data) * math.prod(self.shape[:3]) / SEEN_VALUES)  # classes may lie in a row
            (pixels,) = self.data.batches([torch.arange(0, len(self.data), every, device=self.device)])
            initialize(self.data.images(pixels))
        if self.group.world > 1 and self.device.type == "cuda":  # on the CPU each process has statistics of its own
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
        recipe, data, validation, trained = self.recipe, self.data, self.validation, model
        alone = self.group.world == 1
        if alone and getattr(recipe.network, "freeze", False) and not data.mixes(recipe.augment):
            trained = model.head
            data = Features(model.backbone, data, recipe, seed, features)  # type: ignore[assignment]
            if validation is not None:
                made = Features(model.backbone, validation, recipe, seed, features / "val")
                validation = made.unchanged()  # type: ignore[assignment]
        elif alone and recipe.batch_size == "full" and not data.draw(recipe.augment, seed, epoch=1).numel():
            data.normalize_once()
        return loop.train(trained, recipe, data, validation, seed, saved, on_epoch, self.group)
