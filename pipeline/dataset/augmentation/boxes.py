"""Rectangles that are erased or come from another image, and images that shine through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.dataset.augmentation.draws import named

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment


def erase(images: Tensor, drawn: Tensor) -> Tensor:
    """Blacken a rectangle in each of (B, C, H, W) images.

    `drawn` (B, 4): its height and width, as fractions of the square root of the area, 0 for none; and where it is,
    vertically and horizontally, in [0, 1) of the places that it fits in.
    """
    height, width = images.shape[2:]
    spans = []
    for axis, side in enumerate((height, width)):
        length = (drawn[:, axis] * (height * width) ** 0.5).round().clamp(max=side)
        start = (drawn[:, 2 + axis] * (side - length + 1)).floor()
        spans.append(span(start, start + length, side))
    return images.masked_fill(rectangle(*spans), 0)


def mix(images: Tensor, partners: Tensor, config: Augment, draws: Tensor) -> tuple[Tensor, Tensor]:
    """MixUp (arxiv.org/abs/1710.09412) and CutMix (arxiv.org/abs/1905.04899) of (B, C, H, W) images with partners.

    `draws` (B, K) as for `augment`. Returns the images and how much of each is its own, (B,) float32: the loss is that
    share of the one of its own label, and the rest of its partner's.
    """
    drawn = named(draws, config)
    own = torch.ones(len(images), device=images.device)
    if "mixup" in drawn:
        own = drawn["mixup"][:, 0]
        images = partners.lerp(images, own.view(-1, 1, 1, 1))
    if "cutmix" in drawn:
        height, width = images.shape[2:]
        spans = []
        for axis, side in enumerate((height, width)):
            half = ((1 - drawn["cutmix"][:, 0]).sqrt() * side / 2).floor()
            centre = (drawn["cutmix"][:, 1 + axis] * side).floor()
            spans.append(span(centre - half, centre + half, side))
        images = torch.where(rectangle(*spans), partners, images)
        own = own * (1 - spans[0].sum(1) * spans[1].sum(1) / (height * width))  # what lies outside does not count
    return images, own


def span(start: Tensor, stop: Tensor, side: int) -> Tensor:
    """Which of `side` pixels are between (B,) start and stop: (B, side) bool."""
    pixels = torch.arange(side, device=start.device)
    return (start[:, None] <= pixels) & (pixels < stop[:, None])


def rectangle(down: Tensor, across: Tensor) -> Tensor:
    """(B, H) and (B, W) to (B, 1, H, W) bool."""
    return down[:, None, :, None] & across[:, None, None, :]
