"""Rotation, scale, translation and the flips beside them: one affine map, which `randaugment` adds its own to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment
    from pipeline.dataset.augmentation.sampler import Sampler


def draw(config: Augment, sampler: Sampler) -> dict[str, Tensor]:
    """`map` (count, 8), as `compose` takes it; or, where only flips move pixels, `flips` (count, 2) for `crop`."""
    flips = torch.cat([mirrored(config, sampler), sampler.happens(config.vertical_flip)], dim=1)
    if config.rotation or config.translate or config.scale != (1.0, 1.0) or config.randaugment:
        turn = rotation(sampler.uniform(-config.rotation, config.rotation)) / sampler.uniform(*config.scale)[..., None]
        shift = sampler.uniform(-config.translate, config.translate, 2)
        return {"map": torch.cat([turn * (1 - 2 * flips[:, None]), turn * shift[:, None]], dim=2).flatten(1)}
    return {"flips": flips} if config.horizontal_flip or config.vertical_flip else {}


def mirrored(config: Augment, sampler: Sampler) -> Tensor:
    """(count, 1): 1 for flipped horizontally, else 0."""
    if config.horizontal_flip == "alternating":
        return sampler.alternating()
    return sampler.happens(config.horizontal_flip)


def apply(images: Tensor, maps: Tensor, interpolation: str) -> Tensor:
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
    T = map[:, :, 2:], in pixels from the center; so it holds for every size.
    """
    composed = first[..., :2] @ then
    composed[..., 2:] += first[..., 2:]
    return composed
