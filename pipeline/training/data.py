"""A packed data set as tensors: a batch is a list of indices into one uint8 array."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.console import UserError

Change = Callable[[Tensor], Tensor]

NORMALIZATIONS = {
    "none": ([0.0], [1.0]),  # values in [0, 1]
    "symmetric": ([0.5], [0.5]),  # in [-1, 1]
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # torchvision's pretrained models
}
RESIDENT_SHARE = 0.5  # of the memory of the device that images may take


class Packed:
    """`data/packed/<data set>`: images, and for each its path, class and split. Raises UserError if it is not there."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "meta.json").exists():
            raise UserError(f"{folder} is not there: run dvc repro pack@{folder.name}, or dvc pull it")
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.images = np.load(folder / "images.npy", mmap_mode="r")  # (N, H, W, C) uint8
        self.index = pd.read_parquet(folder / "index.parquet")
        self.classes: list[str] = self.meta["classes"]
        numbers = {label: number for number, label in enumerate(self.classes)}
        self.labels = self.index["label"].map(numbers).to_numpy(np.int64)

    def rows(self, *splits: str, fraction: float = 1.0) -> np.ndarray:
        """Positions of the images of these splits, in file order; of each class and split the first `fraction`."""
        return np.flatnonzero(self.index["split"].isin(splits) & (self.index["train_order"] < fraction))

    def normalization(self, chosen: Any) -> tuple[list[float], list[float]]:
        """Mean and std per channel, of values in [0, 1], for a name or an explicit choice in a recipe."""
        if chosen == "dataset":
            return self.meta["mean"], self.meta["std"]
        mean, std = NORMALIZATIONS[chosen] if isinstance(chosen, str) else (chosen.mean, chosen.std)
        channels = self.meta["channels"]
        if len(mean) not in (1, 3) or len(std) != len(mean):
            raise UserError(
                f"params.yaml: normalize has {len(mean)} means and {len(std)} stds for {channels} channels;"
                " expected 1 or 3 of each"
            )
        if channels == 1:  # of colour statistics, their mean
            return [sum(mean) / len(mean)], [sum(std) / len(std)]
        repeats = channels // len(mean)
        return mean * repeats, std * repeats


class Normalize:
    """From (B, C, H, W) float32 in [0, 255] to (value / 255 - mean) / std per channel, in place."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * stds), means / stds

    def __call__(self, images: Tensor) -> Tensor:
        return images.mul_(self.scale).sub_(self.shift)


class Batches:
    """Images and labels of some rows on a device, normalised batch by batch.

    The uint8 images live on the device where they fit, else they are read from the memory map as needed.
    """

    def __init__(
        self, packed: Packed, rows: np.ndarray, mean: list[float], std: list[float], device: torch.device
    ) -> None:
        self.device = device
        self.labels = torch.from_numpy(packed.labels[rows]).to(device)
        self.mapped, self.rows = packed.images, rows
        self.resident: Tensor | None = None
        if len(rows) * packed.images[:1].nbytes <= RESIDENT_SHARE * free_memory(device):
            self.resident = torch.from_numpy(packed.images[rows]).permute(0, 3, 1, 2).contiguous().to(device)
        self.normalize = Normalize(mean, std, device)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32, changed and normalised, and labels (B,) int64 at these positions."""
        if self.resident is not None:
            pixels = self.resident[indices]
        else:
            chosen = self.rows[indices if isinstance(indices, slice) else indices.cpu().numpy()]
            # contiguous: sums in another order of memory would end in other bits than those of resident images
            pixels = torch.from_numpy(self.mapped[chosen]).permute(0, 3, 1, 2).contiguous().to(self.device)
        images = pixels.float()
        if change is not None:
            images = change(images)
        return self.normalize(images), self.labels[indices]


def free_memory(device: torch.device) -> int:
    """Bytes free on a CUDA device; elsewhere all memory, which the rest of the machine shares."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
