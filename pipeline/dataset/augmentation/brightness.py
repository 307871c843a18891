"""Brighter or darker, as torchvision's adjust_brightness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.dataset.augmentation.colors import blend

if TYPE_CHECKING:
    from pipeline.dataset.augmentation.sampler import Sampler


def draw(change: float, sampler: Sampler) -> Tensor:
    return sampler.factor(change)


def apply(images: Tensor, factors: Tensor, change: float) -> Tensor:
    return blend(images, 0, factors)
