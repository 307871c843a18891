"""The images that an experiment trains and validates on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.dataset.batches import Batches, resident_budget
from pipeline.networks import Shape
from pipeline.networks.layers import BackboneClassifier
from pipeline.system.console import UserError
from pipeline.training.features import Features

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.training.distributed import Group


class TrainingData:
    """The training and validation images of an experiment, on the device of this process.

    Raises UserError where the experiment picks an epoch by validation images and there are none.
    """

    def __init__(self, packed: PackedDataset, config: Experiment, device: torch.device, group: Group) -> None:
        self.packed, self.config, self.device, self.group = packed, config, device, group
        self.mean, self.std = packed.normalization(config.normalization())
        meta = packed.meta
        self.shape = Shape(meta["channels"], meta["height"], meta["width"], len(packed.classes))
        splits = ("train", "val") if config.train_on_val else ("train",)
        self.train_rows = packed.rows(*splits, fraction=config.train_fraction)
        self.val_rows = packed.rows() if config.train_on_val else packed.rows("val")
        if not len(self.val_rows) and (config.checkpoint == "best" or config.patience):
            raise UserError(f"{config.dataset} has no validation images to pick an epoch by: raise its split.val")

    @cached_property
    def train(self) -> Batches:
        return self.batches(self.train_rows)

    @cached_property
    def val(self) -> Batches | None:
        """Resident in the first process only, which alone validates."""
        return self.batches(self.val_rows, resident=not self.group.rank) if len(self.val_rows) else None

    def batches(self, rows: NDArray[np.int64], resident: bool = True) -> Batches:
        """The images in these rows, held on the device as far as `compute.cache_mb` allows."""
        compute = self.config.compute
        if compute.cache_mb != "auto":
            budget = compute.cache_mb * 1_000_000
        else:
            # on a CPU the processes share one memory, and each holds images to train and to validate
            shares = 2 * compute.devices if self.device.type == "cpu" and self.group.world_size > 1 else 1
            budget = resident_budget(self.device, shares)
        return Batches(self.packed, rows, self.mean, self.std, self.device, budget if resident else 0)

    def for_model(
        self, model: nn.Module, seed: int, folder: Path
    ) -> tuple[nn.Module, Batches | Features, Batches | Features | None]:
        """The part of `model` that trains, and what it is trained and validated on.

        Usually that is the model and the images. With a frozen backbone it is the head and the backbone's features,
        kept in `folder`, unless images are mixed (features of a mixture are no mixture of features) or several
        processes train.
        """
        config, alone = self.config, self.group.world_size == 1
        if alone and isinstance(model, BackboneClassifier) and model.frozen and not self.train.mixes(config.augment):
            features = Features(model.backbone, self.train, config, seed, folder)
            if self.val is None:
                return model.head, features, None
            return model.head, features, Features(model.backbone, self.val, config, seed, folder / "val").unchanged()
        in_order = config.batch_size == "full" and config.grad_accum_steps == 1
        if alone and in_order and not self.train.draw(config.augment, seed, 1).numel():
            self.train.normalize_once()
        return model, self.train, self.val
