"""MixUp (arxiv.org/abs/1710.09412) and CutMix (arxiv.org/abs/1905.04899): images with a share of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.dataset.augmentation.boxes import rectangle, span

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment
    from pipeline.dataset.augmentation.sampler import Sampler


def draw(config: Augment, sampler: Sampler) -> dict[str, Tensor]:
    """`mixup` (count, 1): the share that is an image's own. `cutmix` (count, 3): the same, and its partner's place.

    The place is the center of a rectangle, vertically and horizontally, in [0, 1).
    """
    drawn: dict[str, Tensor] = {}
    if config.mixup:
        drawn["mixup"] = sampler.beta(config.mixup)
    if config.cutmix:
        drawn["cutmix"] = torch.cat([sampler.beta(config.cutmix), sampler.uniform(0, 1, 2)], dim=1)
    if config.mixup and config.cutmix:  # one of them to each image; a share of 1 does nothing
        mixed = sampler.happens(0.5)
        drawn["mixup"] = torch.where(mixed == 1, drawn["mixup"], 1)
        drawn["cutmix"][:, :1] = torch.where(mixed == 1, 1, drawn["cutmix"][:, :1])
    return drawn


def apply(images: Tensor, partners: Tensor, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mixed images (B, C, H, W), and the share of each that is its own, (B,) float32."""
    own = torch.ones(len(images), device=images.device)
    if "mixup" in drawn:
        own = drawn["mixup"][:, 0]
        images = partners.lerp(images, own.view(-1, 1, 1, 1))
    if "cutmix" in drawn:
        height, width = images.shape[2:]
        spans = []
        for axis, side in enumerate((height, width)):
            half = ((1 - drawn["cutmix"][:, 0]).sqrt() * side / 2).floor()
            center = (drawn["cutmix"][:, 1 + axis] * side).floor()
            spans.append(span(center - half, center + half, side))
        images = torch.where(rectangle(*spans), partners, images)
        own = own * (1 - spans[0].sum(1) * spans[1].sum(1) / (height * width))  # what lies outside does not count
    return images, own
