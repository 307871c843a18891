"""More or less color, as torchvision's adjust_saturation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.dataset.augmentation.colors import blend, luma

if TYPE_CHECKING:
    from pipeline.dataset.augmentation.sampler import Sampler


def draw(change: float, sampler: Sampler) -> Tensor:
    return sampler.factor(change)


def apply(images: Tensor, factors: Tensor, change: float) -> Tensor:
    return blend(images, luma(images), factors)
