"""Normalization by the mean and standard deviation of each channel."""

from __future__ import annotations

import torch
from torch import Tensor


class Normalize:
    """From (B, C, H, W) float32 in [0, 255] to (value / 255 - mean) / std per channel, in place."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * stds), means / stds

    def __call__(self, images: Tensor) -> Tensor:
        return images.mul_(self.scale).sub_(self.shift)

    def undo(self, images: Tensor) -> Tensor:
        return (images + self.shift) / self.scale
