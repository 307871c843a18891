"""A crop of the padded image, and flips that no affine map does: exact copies of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.dataset.augmentation.sampler import Sampler


def draw(padding: int, sampler: Sampler) -> Tensor:
    return sampler.integers(-padding, padding + 1, 2)


def apply(images: Tensor, offsets: Tensor, flips: Tensor | None = None) -> Tensor:
    """Shift, continued by reflection at the borders, and flip: (B, C, H, W) to the same.

    `offsets` (B, 2): pixels to the right and down, both whole. `flips` (B, 2): 1 for flipped horizontally, vertically,
    else 0.
    """
    sources = []
    for axis, side in enumerate((images.shape[3], images.shape[2])):
        places = torch.arange(side, device=images.device)
        if flips is not None:
            places = torch.where(flips[:, axis, None] == 1, side - 1 - places, places)
        places = places + offsets[:, axis, None].long()
        period = max(1, 2 * (side - 1))  # there and back again
        sources.append(side - 1 - (places.remainder(period) - (side - 1)).abs())
    across, down = sources
    places = down[:, :, None] * images.shape[3] + across[:, None, :]
    return images.flatten(2).gather(2, places.flatten(1)[:, None].expand(images.flatten(2).shape)).view_as(images)
