"""Random changes to a batch of images on its device, another one for every image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def draw(recipe: Any, count: int, generator: Generator) -> Tensor:
    return torch.rand(count, 2 if recipe.rotation or recipe.horizontal_flip else 0, generator=generator)


def mix(images: Tensor, partners: Tensor, recipe: Any, draws: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


def augment(images: Tensor, recipe: Any, draws: Tensor) -> Tensor:
    """Rotate and flip each of (B, C, H, W) images at random, as `recipes.Augment` says.

    One affine map an image, sampled bilinearly; what was outside is black, as torchvision fills it.
    The draws come from a generator on the CPU, so that they are the same on every device.
    """
    if not (recipe.rotation or recipe.horizontal_flip):
        return images
    angle = (2 * draws[:, 0] - 1) * recipe.rotation * torch.pi / 180
    flipped = draws[:, 1] < recipe.horizontal_flip
    if not recipe.rotation:  # nothing to sample: exact, and faster
        return torch.where(flipped.view(-1, 1, 1, 1).to(images.device), images.flip(-1), images)
    mirror = 1 - 2 * flipped.float()
    height, width = images.shape[-2:]
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # grid coordinates run from -1 to 1 on both sides: scale the shear terms to keep the angles of other than squares
    maps = torch.stack(
        [
            torch.stack([cos * mirror, -sin * height / width, none], dim=1),
            torch.stack([sin * mirror * width / height, cos, none], dim=1),
        ],
        dim=1,
    ).to(images.device)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
