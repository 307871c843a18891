"""Random erasing (arxiv.org/abs/1708.04896): a black rectangle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.dataset.augmentation.boxes import rectangle, span

if TYPE_CHECKING:
    from pipeline.config.augmentation import RandomErasing
    from pipeline.dataset.augmentation.sampler import Sampler

RATIO = 0.3  # smallest width ÷ height and height ÷ width, as in the paper


def draw(config: RandomErasing, sampler: Sampler) -> Tensor:
    """(count, 4): size and position of each rectangle, vertically and horizontally.

    Sizes are fractions of the square root of the image's area, 0 for no rectangle. Positions are in [0, 1), of the
    places where the rectangle fits in.
    """
    area, position = sampler.uniform(*config.area), sampler.uniform(0, 1, 2)
    ratio = sampler.uniform(math.log(RATIO), -math.log(RATIO)).exp()
    sides = torch.cat([area * ratio, area / ratio], dim=1).sqrt()
    return torch.cat([sampler.happens(config.probability) * sides, position], dim=1)


def apply(images: Tensor, drawn: Tensor, config: RandomErasing) -> Tensor:
    height, width = images.shape[2:]
    spans = []
    for axis, side in enumerate((height, width)):
        length = (drawn[:, axis] * (height * width) ** 0.5).round().clamp(max=side)
        start = (drawn[:, 2 + axis] * (side - length + 1)).floor()
        spans.append(span(start, start + length, side))
    return images.masked_fill(rectangle(*spans), 0)
