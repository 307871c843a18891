"""Random numbers for images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor


class Sampler:
    """Draws numbers for `count` images from a generator on the CPU: tensors with a row for each image."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(self.count, columns, generator=self.generator)

    def integers(self, low: int, stop: int, columns: int = 1) -> Tensor:
        """Whole numbers from `low` to `stop` - 1, each as likely."""
        return torch.randint(low, stop, (self.count, columns), generator=self.generator)

    def happens(self, probability: float) -> Tensor:
        """1 with this probability, else 0."""
        return (self.uniform(0, 1) < probability).float()

    def factor(self, change: float) -> Tensor:
        """From 1 - `change` to 1 + `change`, never below 0."""
        return self.uniform(max(0, 1 - change), 1 + change)

    def beta(self, alpha: float) -> Tensor:
        """From the distribution Beta(alpha, alpha)."""
        seed = torch.randint(2**63 - 1, (), generator=self.generator).item()  # torch's own takes no generator
        return torch.from_numpy(np.random.default_rng(int(seed)).beta(alpha, alpha, (self.count, 1))).float()
