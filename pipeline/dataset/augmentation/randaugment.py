"""The operations of RandAugment (arxiv.org/abs/1909.13719), with the strengths that torchvision gives them.

All of torchvision's, with two differences: what moves pixels comes before what changes colors, so that one map does it;
and sampling is bilinear.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.dataset.augmentation.affine import compose, rotation
from pipeline.dataset.augmentation.colors import blend, luma

if TYPE_CHECKING:
    from pipeline.config.augmentation import RandAugment
    from pipeline.dataset.augmentation.sampler import Sampler

STRONGEST = 30  # the magnitude at which the strengths below are reached
SHEAR = 0.3
TRANSLATION = 150 / 331  # of the side
ROTATION = 30.0  # degrees
ENHANCEMENT = 0.9  # relative change of brightness, color, contrast, sharpness
POSTERIZED_BITS = 4

Operation = IntEnum(
    "Operation",
    "IDENTITY SHEAR_X SHEAR_Y TRANSLATE_X TRANSLATE_Y ROTATE "
    "BRIGHTNESS COLOR CONTRAST SHARPNESS POSTERIZE SOLARIZE AUTO_CONTRAST EQUALIZE",
    start=0,
)


def draw(config: RandAugment, sampler: Sampler, maps: Tensor) -> dict[str, Tensor]:
    """`operations` (count, 2 × operations): number and sign of each; and `map` (count, 8), `maps` with their moves."""
    maps, rounds = maps.view(-1, 2, 4), []
    for _ in range(config.operations):
        rounds.append(torch.cat([sampler.integers(0, len(Operation)), 2 * sampler.happens(0.5) - 1], dim=1))
        maps = compose(maps, moves(rounds[-1], config.magnitude))
    return {"operations": torch.cat(rounds, dim=1), "map": maps.flatten(1)}


def apply(images: Tensor, operations: Tensor, config: RandAugment) -> Tensor:
    """Change the colors of (B, C, H, W) images; what moves pixels is in the map."""
    for operation in operations.split(2, dim=1):
        images = recolor(images, operation, config.magnitude)
    return images


def moves(drawn: Tensor, magnitude: int) -> Tensor:
    """Affine maps (N, 2, 4), as `compose` takes them, of operations and signs (N, 2); of colors, identity."""
    operation, amount = drawn[:, :1], drawn[:, 1:] * (magnitude / STRONGEST)

    def of(chosen: Operation, largest: float) -> Tensor:
        return torch.where(operation == chosen, amount * largest, 0)

    linear = rotation(of(Operation.ROTATE, ROTATION))
    shear_x, shear_y = of(Operation.SHEAR_X, SHEAR), of(Operation.SHEAR_Y, SHEAR)
    linear[:, 0, 1:] += shear_x
    linear[:, 1, :1] += shear_y
    # torchvision shears about the upper left corner
    shift = [of(Operation.TRANSLATE_X, TRANSLATION), shear_x / 2, shear_y / 2, of(Operation.TRANSLATE_Y, TRANSLATION)]
    return torch.cat([linear, torch.cat(shift, dim=1).view(-1, 2, 2)], dim=2)


def recolor(images: Tensor, drawn: Tensor, magnitude: int) -> Tensor:
    """Do to each of (B, C, H, W) images its operation on colors; `drawn` (B, 2): operation and sign.

    All operations are computed for every image, so that no shape depends on what was drawn. Most of them map a level of
    a channel to another: as tables they cost little. Levels are whole, as torchvision's are.
    """
    operation, sign = drawn[:, :1], drawn[:, 1:]
    strength = magnitude / STRONGEST
    factor = 1 + ENHANCEMENT * strength * sign
    levels = images.round().long().flatten(2)
    tables = changed_levels(levels, operation[..., None], factor[..., None], strength)
    images = tables.gather(2, levels).view_as(images)

    is_sharpness = operation == Operation.SHARPNESS
    others = torch.where(is_sharpness[..., None, None], smooth(images), luma(images))
    return blend(images, others, torch.where(is_sharpness | (operation == Operation.COLOR), factor, 1))


def changed_levels(levels: Tensor, operation: Tensor, factor: Tensor, strength: float) -> Tensor:
    """Tables (B, C, 256) float32 of what becomes of each level, for (B, C, H * W) levels; the rest is (B, 1, 1)."""
    level = torch.arange(256, device=levels.device)
    one = torch.ones((), dtype=torch.int64, device=levels.device)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(2, levels, one.expand_as(levels))
    mean = luma((counts * level).sum(2, keepdim=True)[..., None] / levels.shape[2])[:, 0]
    step = 2 ** round(POSTERIZED_BITS * strength)

    lowest = torch.where(counts > 0, level, 255).amin(2, keepdim=True)
    highest = torch.where(counts > 0, level, 0).amax(2, keepdim=True)
    spread = (highest - lowest).clamp(min=1)

    darker = counts.cumsum(2) - counts
    share = darker.gather(2, highest) // 255  # of the pixels, for each level but the highest
    equal = (darker + share // 2) // share.clamp(min=1)

    changed = {
        Operation.BRIGHTNESS: level * factor,
        Operation.CONTRAST: level * factor + mean * (1 - factor),
        Operation.POSTERIZE: level // step * step,
        Operation.SOLARIZE: torch.where(level >= 255 * (1 - strength), 255 - level, level),
        Operation.AUTO_CONTRAST: torch.where(highest > lowest, (level - lowest) * 255 / spread, level),
        Operation.EQUALIZE: torch.where(share > 0, equal, level),
    }
    tables = level.float().expand_as(counts)
    for chosen, table in changed.items():
        tables = torch.where(operation == chosen, table, tables)
    return tables.clamp(0, 255)


def smooth(images: Tensor) -> Tensor:
    """Each pixel of (B, C, H, W) averaged with its eight neighbors, itself 5 times; borders as they are."""
    columns = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    squares = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    smoothed = images.clone()
    smoothed[..., 1:-1, 1:-1] = (squares + 4 * images[..., 1:-1, 1:-1]) / 13
    return smoothed
