"""Random numbers for images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

AUGMENTATION = 1 << 40  # added to a seed, so that augmentation draws other numbers than the order of the batches


class Sampler:
    """Draws numbers for `count` images in an epoch, from 1, on the CPU: tensors with a row for each image."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self.count, self.seed, self.epoch = count, seed * 1_000_003 + AUGMENTATION, epoch
        self.generator = Generator().manual_seed(self.seed + epoch)

    def uniform(self, low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(self.count, columns, generator=self.generator)

    def integers(self, low: int, stop: int, columns: int = 1) -> Tensor:
        """Whole numbers from `low` to `stop` - 1, each as likely."""
        return torch.randint(low, stop, (self.count, columns), generator=self.generator)

    def happens(self, probability: float) -> Tensor:
        """1 with this probability, else 0."""
        return (self.uniform(0, 1) < probability).float()

    def alternating(self) -> Tensor:
        """0 or 1 at random in the first epoch, and from then on the other one in each epoch."""
        first = torch.rand(self.count, 1, generator=Generator().manual_seed(self.seed)) < 0.5
        return (first ^ bool(self.epoch % 2)).float()

    def factor(self, change: float) -> Tensor:
        """From 1 - `change` to 1 + `change`, never below 0."""
        return self.uniform(max(0, 1 - change), 1 + change)

    def beta(self, alpha: float) -> Tensor:
        """From the distribution Beta(alpha, alpha)."""
        seed = torch.randint(2**63 - 1, (), generator=self.generator).item()  # torch's own takes no generator
        return torch.from_numpy(np.random.default_rng(int(seed)).beta(alpha, alpha, (self.count, 1))).float()
