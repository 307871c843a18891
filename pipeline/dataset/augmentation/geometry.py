"""Where the pixels of an image come from: exact copies (`window`) and affine maps (`warp`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window(images: Tensor, drawn: Tensor) -> Tensor:
    """Shift, continued by reflection at the borders, and flip: (B, C, H, W) to the same, exact copies of pixels.

    `drawn` (B, 4): pixels to the right and down, both whole; 1 for flipped horizontally, vertically, else 0.
    """
    sources = []
    for axis, side in enumerate((images.shape[3], images.shape[2])):
        places = torch.arange(side, device=images.device)
        places = torch.where(drawn[:, 2 + axis, None] == 1, side - 1 - places, places) + drawn[:, axis, None].long()
        period = max(1, 2 * (side - 1))  # there and back again
        sources.append(side - 1 - (places.remainder(period) - (side - 1)).abs())
    across, down = sources
    places = down[:, :, None] * images.shape[3] + across[:, None, :]
    return images.flatten(2).gather(2, places.flatten(1)[:, None].expand(images.flatten(2).shape)).view_as(images)


def warp(images: Tensor, maps: Tensor, interpolation: str = "bilinear") -> Tensor:
    """Sample (B, C, H, W) images where the maps (B, 8), as `compose` takes them, say; what was outside is black."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=maps.device) - (width - 1) / 2
    y = torch.arange(height, device=maps.device) - (height - 1) / 2
    to_x, to_y = maps.view(-1, 2, 4).unbind(1)
    maps = torch.stack([to_x * (2 / width), to_y * (2 / height)], dim=1)  # grid_sample counts from -1 to 1
    shift = maps[..., 2:3] * width + maps[..., 3:4] * height
    across, down = maps[..., 0:1] * x + shift, maps[..., 1:2] * y
    grid = across[:, :, None, :] + down[:, :, :, None]  # (B, 2, H, W): planes, much faster than F.affine_grid
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode=interpolation, align_corners=False)


def rotation(angles: Tensor) -> Tensor:
    """(N, 1) degrees to (N, 2, 2)."""
    cos, sin = angles.deg2rad().cos(), angles.deg2rad().sin()
    return torch.stack([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)], dim=1)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """One map for a change of the image and one that follows it.

    A map (N, 2, 4) tells where pixels come from: [x, y] = A [x', y'] + T [width, height] for A = map[:, :, :2] and
    T = map[:, :, 2:], in pixels from the centre; so it holds for every size.
    """
    composed = first[..., :2] @ then
    composed[..., 2:] += first[..., 2:]
    return composed
