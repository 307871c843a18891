"""Random changes to a batch of images on its device, another one for every image.

`draw` makes everything random of a whole epoch, on the CPU, so that it is the same on every device. `augment` and `mix`
wait for nothing and read nothing back. What becomes of an image depends on its own row of draws, not on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.dataset.augmentation.boxes import erase, mix
from pipeline.dataset.augmentation.colors import jitter
from pipeline.dataset.augmentation.draws import draw, named
from pipeline.dataset.augmentation.geometry import warp, window
from pipeline.dataset.augmentation.randaugment import recolor

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment

__all__ = ["augment", "draw", "mix"]


def augment(images: Tensor, config: Augment, draws: Tensor) -> Tensor:
    """Change (B, C, H, W) float32 images in [0, 255] by the rows of `draws` (B, K) on the same device.

    Crop, then one affine map, then colors, then erase; what was outside is black.
    """
    drawn = named(draws, config)
    if "window" in drawn:
        images = window(images, drawn["window"])
    if "map" in drawn:
        images = warp(images, drawn["map"], config.interpolation)
    if config.randaugment:
        for operation in drawn["operations"].split(2, dim=1):
            images = recolor(images, operation, config.randaugment.magnitude)
    images = jitter(images, drawn)
    if "random_erasing" in drawn:
        images = erase(images, drawn["random_erasing"])
    return images
