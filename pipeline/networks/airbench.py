"""The small network of the CIFAR-10 speed runs: Jordan, arXiv 2404.00498, in the lineage of Page's ResNet-9.

A frozen convolution whitens 2×2 patches, then each group of two convolutions halves the image. Convolutions start as
the identity (dirac initialization). Batch norm trains its biases only. The logits are scaled by HEAD_SCALE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks import Shape

if TYPE_CHECKING:
    from pipeline.config.networks import AirbenchConfig

WHITENING_KERNEL = 2  # pixels a side
WHITENING_EPSILON = 5e-4  # added to each eigenvalue, so that directions with almost no variance are not blown up
NORM_MOMENTUM = 0.4  # weight of the newest batch; larger than torch's 0.1 because a training has few steps
HEAD_SCALE = 1 / 9


class Airbench(nn.Module):
    """From (N, channels, height, width) to logits (N, classes)."""

    def __init__(self, network: AirbenchConfig, shape: Shape) -> None:
        super().__init__()
        channels = 2 * shape.channels * WHITENING_KERNEL**2
        self.whitening = nn.Conv2d(shape.channels, channels, WHITENING_KERNEL)
        self.whitening.weight.requires_grad_(False)
        self.groups = nn.Sequential()
        for width in network.widths:
            self.groups.extend(group(channels, width))
            channels = width
        self.head = nn.Linear(channels, shape.classes, bias=False)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Set the whitening filters from normalized training images (N, channels, height, width)."""
        whitened = whitening_filters(images)
        self.whitening.weight.copy_(torch.cat([whitened, -whitened]))

    def forward(self, images: Tensor) -> Tensor:
        features = self.groups(F.gelu(self.whitening(images)))
        return self.head(features.amax((2, 3))) * HEAD_SCALE


def group(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolution, max pooling, batch norm, GELU, and the same again without pooling."""
    first, second = (nn.Conv2d(each, outputs, 3, padding=1, bias=False) for each in (inputs, outputs))
    for convolution in (first, second):
        nn.init.dirac_(convolution.weight[: convolution.in_channels])
    norms = [nn.BatchNorm2d(outputs, momentum=NORM_MOMENTUM) for _ in range(2)]
    for norm in norms:
        norm.weight.requires_grad_(False)
    return [first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU()]


def whitening_filters(images: Tensor) -> Tensor:
    """Filters whose responses on these images are uncorrelated and have a second moment of 1.

    From images (N, C, H, W) to (C·k², C, k, k): eigenvectors of the second moments of all k×k patches, in ascending
    order of their eigenvalues, divided by the square root of those. The sign of an eigenvector is arbitrary; here its
    entry of the largest magnitude is positive.
    """
    channels, kernel = images.shape[1], WHITENING_KERNEL
    size = channels * kernel**2
    moments, count = torch.zeros(size, size, dtype=torch.float64), 0
    for some in images.split(256):  # the patches of all images at once would take k² times the memory of the images
        patches = F.unfold(some, kernel).cpu().double()  # (N, size, patches of an image)
        moments += (patches @ patches.mT).sum(0)
        count += patches.shape[0] * patches.shape[2]
    values, vectors = torch.linalg.eigh(moments / count)
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T
    signs = filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
    return (filters * signs).float().reshape(size, channels, kernel, kernel)


def build(network: AirbenchConfig, shape: Shape) -> Airbench:
    return Airbench(network, shape)
