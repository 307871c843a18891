"""Random changes to a batch of images on its device, another one for every image.

`draw` makes everything random of a whole epoch, on the CPU, so that it is the same on every device. `augment` and `mix`
wait for nothing and read nothing back. What becomes of an image depends on its own row of draws, not on its batch.

What moves pixels (`affine`, `randaugment`, `crop`) is drawn as one affine map and one crop. Every other change of an
image is a module of PIXEL_LEVEL, named as its key in the config, with two functions:

- `draw(setting, sampler)` returns what is random about each image, (count, columns);
- `apply(images, drawn, setting)` changes (B, C, H, W) float32 images in [0, 255] by their rows of that, (B, columns).
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.dataset.augmentation import (
    affine,
    brightness,
    contrast,
    crop,
    mixing,
    randaugment,
    random_erasing,
    saturation,
)
from pipeline.dataset.augmentation.sampler import Sampler

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment

PIXEL_LEVEL = (brightness, contrast, saturation, random_erasing)  # in the order in which they are drawn and applied


def draw(config: Augment, count: int, seed: int, epoch: int) -> Tensor:
    """All the randomness of `count` images in an epoch, (count, K) float32: what `augment` and `mix` do to each.

    The result is on the CPU. K depends on the config; it is 0 where nothing is random.
    """
    return torch.cat([torch.empty(count, 0), *sample(config, Sampler(count, seed, epoch)).values()], dim=1)


def augment(images: Tensor, config: Augment, draws: Tensor) -> Tensor:
    """Change (B, C, H, W) float32 images in [0, 255] by the rows of `draws` (B, K) on the same device.

    Crop, then one affine map, then RandAugment's colors, then the rest; what was outside is black.
    """
    drawn = named(draws, config)
    if "offsets" in drawn:
        images = crop.apply(images, drawn["offsets"], drawn.get("flips"))
    if "map" in drawn:
        images = affine.apply(images, drawn["map"], config.interpolation)
    if config.randaugment:
        images = randaugment.apply(images, drawn["operations"], config.randaugment)
    for name, setting, module in pixel_level(config):
        images = module.apply(images, drawn[name], setting)
    return images


def mix(images: Tensor, partners: Tensor, config: Augment, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mix (B, C, H, W) images with partners by the rows of `draws` (B, K) on the same device.

    Returns the images and how much of each is its own, (B,) float32: the loss is that share of the one of its own
    label, and the rest of its partner's.
    """
    return mixing.apply(images, partners, named(draws, config))


def named(draws: Tensor, config: Augment) -> dict[str, Tensor]:
    """The columns of (B, K) `draws` by their names in `sample`; what the config does not ask for is missing."""
    widths = layout(config)
    return dict(zip(widths, draws.split(list(widths.values()), dim=1), strict=True))


@cache
def layout(config: Augment) -> dict[str, int]:
    return {name: columns.shape[1] for name, columns in sample(config, Sampler(0, 0, 0)).items()}


def sample(config: Augment, sampler: Sampler) -> dict[str, Tensor]:
    """What is drawn for the changes that the config asks for: (count, columns) float32 by name."""
    drawn = affine.draw(config, sampler)
    if config.randaugment:
        drawn |= randaugment.draw(config.randaugment, sampler, drawn["map"])
    if config.crop_padding or "flips" in drawn:
        drawn["offsets"] = crop.draw(config.crop_padding, sampler)
    for name, setting, module in pixel_level(config):
        drawn[name] = module.draw(setting, sampler)
    return drawn | mixing.draw(config, sampler)


def pixel_level(config: Augment) -> list[tuple[str, Any, ModuleType]]:
    """The changes of PIXEL_LEVEL that the config asks for: key, setting and module."""
    modules = {module.__name__.rpartition(".")[2]: module for module in PIXEL_LEVEL}
    settings = {name: getattr(config, name) for name in modules}
    return [(name, setting, modules[name]) for name, setting in settings.items() if setting]
