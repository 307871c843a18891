"""What is random about an image, as one row of numbers."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from pipeline.dataset.augmentation import randaugment
from pipeline.dataset.augmentation.geometry import compose, rotation

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment

ERASED_RATIO = 0.3  # smallest width ÷ height and height ÷ width, as in arxiv.org/abs/1708.04896


def draw(config: Augment, count: int, generator: Generator) -> Tensor:
    """All the randomness of `count` images, (count, K) float32: what `augment` and `mix` do to each of them.

    The generator and the result are on the CPU. K depends on the config; it is 0 where nothing is random.
    """
    return torch.cat([torch.empty(count, 0), *sample(config, count, generator).values()], dim=1)


def named(draws: Tensor, config: Augment) -> dict[str, Tensor]:
    """The columns of (B, K) `draws` by their names in `sample`; what the config does not ask for is missing."""
    widths = layout(config)
    return dict(zip(widths, draws.split(list(widths.values()), dim=1), strict=True))


@cache
def layout(config: Augment) -> dict[str, int]:
    return {name: columns.shape[1] for name, columns in sample(config, 0, Generator()).items()}


def sample(config: Augment, count: int, generator: Generator) -> dict[str, Tensor]:
    """Parameters of the changes that the config asks for: (count, columns) float32 by name."""

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, columns, generator=generator)

    def happens(probability: float) -> Tensor:
        return (uniform(0, 1) < probability).float()

    def beta(alpha: float) -> Tensor:
        seed = torch.randint(2**63 - 1, (), generator=generator).item()  # torch's own takes no generator
        return torch.from_numpy(np.random.default_rng(int(seed)).beta(alpha, alpha, (count, 1))).float()

    drawn: dict[str, Tensor] = {}
    flips = torch.cat([happens(config.horizontal_flip), happens(config.vertical_flip)], dim=1)
    if config.rotation or config.translate or config.scale != (1.0, 1.0) or config.randaugment:
        turn = rotation(uniform(-config.rotation, config.rotation)) / uniform(*config.scale)[..., None]
        shift = uniform(-config.translate, config.translate, 2)
        maps = torch.cat([turn * (1 - 2 * flips[:, None]), turn * shift[:, None]], dim=2)
        flips = torch.zeros_like(flips)  # the map does them
        if config.randaugment:
            rounds = []
            for _ in range(config.randaugment.operations):
                operation = torch.randint(len(randaugment.Operation), (count, 1), generator=generator)
                rounds.append(torch.cat([operation, 2 * happens(0.5) - 1], dim=1))
                maps = compose(maps, randaugment.maps(rounds[-1], config.randaugment.magnitude))
            drawn["operations"] = torch.cat(rounds, dim=1)
        drawn["map"] = maps.flatten(1)
    if config.crop_padding or ((config.horizontal_flip or config.vertical_flip) and "map" not in drawn):
        padding = config.crop_padding
        offsets = torch.randint(-padding, padding + 1, (count, 2), generator=generator)
        drawn["window"] = torch.cat([offsets, flips], dim=1)

    for name in ("brightness", "contrast", "saturation"):
        if change := getattr(config, name):
            drawn[name] = uniform(max(0, 1 - change), 1 + change)

    if config.random_erasing:
        area, position = uniform(*config.random_erasing.area), uniform(0, 1, 2)
        ratio = uniform(math.log(ERASED_RATIO), -math.log(ERASED_RATIO)).exp()
        sides = torch.cat([area * ratio, area / ratio], dim=1).sqrt()
        drawn["random_erasing"] = torch.cat([happens(config.random_erasing.probability) * sides, position], dim=1)

    if config.mixup:
        drawn["mixup"] = beta(config.mixup)
    if config.cutmix:
        drawn["cutmix"] = torch.cat([beta(config.cutmix), uniform(0, 1, 2)], dim=1)
    if config.mixup and config.cutmix:  # one of them to each image; a share of 1 does nothing
        mixed = happens(0.5)
        drawn["mixup"] = torch.where(mixed == 1, drawn["mixup"], 1)
        drawn["cutmix"][:, :1] = torch.where(mixed == 1, 1, drawn["cutmix"][:, :1])
    return drawn
