"""Batches of a packed data set, on a device: a batch is a list of indices into one uint8 array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.augmentation import augment, draw
from pipeline.dataset.normalize import Normalize
from pipeline.dataset.packed import PackedDataset
from pipeline.dataset.rows import Rows
from pipeline.system import memory

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment
    from pipeline.config.experiments import TTA, Experiment

RESIDENT_SHARE = 0.5  # the fraction of a device's free memory that resident images may take
CHUNK = 2**20  # values that a CPU prepares at a time, few enough for its caches


class Batches:
    """Images and labels of some rows of a packed data set, augmented and normalized batch by batch on a device."""

    def __init__(
        self,
        packed: PackedDataset,
        rows: NDArray[np.int64],
        mean: list[float],
        std: list[float],
        device: torch.device,
        budget: int,
    ) -> None:
        self.device = device
        self.pixels = Rows(packed.file, rows, device, budget)
        self.labels = torch.from_numpy(packed.labels[rows]).to(device)
        self.classes = len(packed.classes)
        self.normalize = Normalize(mean, std, device)
        self.normalized: Tensor | None = None
        self.place = torch.empty(0)  # memory in which one batch after another is prepared

    def __len__(self) -> int:
        return len(self.labels)

    def normalize_once(self) -> None:
        """Normalize all images now, for a training that takes all of them, without augmentation, at every step."""
        if self.normalized is None:
            (pixels,) = self.batches([torch.arange(len(self), device=self.device)])
            self.normalized = self.images(pixels)

    def view(self, epoch: int) -> Batches:
        """What an epoch trains on: the same pixels in every epoch."""
        return self

    def draw(self, config: Augment, seed: int, epoch: int) -> Tensor:
        """The parameters of an epoch's augmentation, one row for each image: (N, K) float32 on the CPU."""
        return draw(config, len(self), seed, epoch)

    def mixes(self, config: Augment) -> bool:
        """Whether the config mixes images with others of their batch."""
        return bool(config.mixup or config.cutmix)

    def tta(self, config: Experiment) -> TTA:
        """Over which views of an image predictions are averaged."""
        return config.tta

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each list of positions, pixels (B, H, W, C) uint8. The next batch may overwrite them.

        After `normalize_once`, images (B, C, H, W) float32: all in their order, or some, at the positions.
        """
        if (images := self.normalized) is None:
            return self.pixels.batches(chosen)
        return (images if len(positions) == len(self) else images[positions] for positions in chosen)

    def images(self, pixels: Tensor, config: Augment | None = None, draws: Tensor | None = None) -> Tensor:
        """From (B, H, W, C) uint8 to (B, C, H, W) float32, augmented as `config` and `draws` say, and normalized.

        On the CPU the next batch may overwrite them.
        """
        if self.normalized is not None:
            return pixels
        images = pixels.permute(0, 3, 1, 2)  # still channels_last in memory, which is fastest for convolutions
        size = max(1, CHUNK // math.prod(images.shape[1:]))
        if self.device.type != "cpu" or len(images) <= size:
            return self.prepared(images, config, draws)
        if len(self.place) < len(images):
            with torch.inference_mode(False):  # else no later training step could use the buffer
                self.place = torch.empty_like(images, dtype=torch.float32)
        made = self.place[: len(images)]
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            made[chunk] = self.prepared(images[chunk], config, None if draws is None else draws[chunk])
        return made

    def pictures(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """The `inputs` of a network (B, C, H, W) as pictures: in [0, 255], without the normalization."""
        return self.normalize.undo(inputs)

    def prepared(self, images: Tensor, config: Augment | None, draws: Tensor | None) -> Tensor:
        images = images.float()
        if config is not None and draws is not None and draws.shape[1]:  # no columns: nothing is augmented
            images = augment(images, config, draws)
        return self.normalize(images)


def resident_budget(device: torch.device, sharing: int = 1) -> int:
    """Bytes of images to hold on a device, when `sharing` users of its free memory each hold some."""
    return int(RESIDENT_SHARE * free_memory(device)) // sharing


def free_memory(device: torch.device) -> int:
    """Free bytes on a device; for the CPU, what this process may still take."""
    if device.type != "cuda":
        return memory.available()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps what it has freed
    return torch.cuda.mem_get_info(device)[0] + unused
