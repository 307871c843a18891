"""The small network of the CIFAR-10 speed runs: Jordan, arXiv 2404.00498, in the lineage of Page's ResNet-9.

A frozen convolution whitens 2×2 patches; groups of two convolutions halve the image each. Channels pass through a
convolution unchanged at the start (dirac), batch norm has biases but no trained weights, and the logits are scaled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks import Shape

WHITENING_KERNEL = 2  # pixels a side
WHITENING_EPSILON = 5e-4  # added to the variance along each eigenvector: what hardly varies is noise
NORM_MOMENTUM = 0.4  # the weight of the newest batch: statistics of a short training follow fast
HEAD_SCALE = 1 / 9


class Airbench(nn.Module):
    """From (N, channels, height, width) to logits (N, classes)."""

    def __init__(self, network: Any, shape: Shape) -> None:
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
        """Set the whitening filters from normalised training images (N, channels, height, width)."""
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
    """One filter for each direction of the space of patches, in which their second moments become 1.

    From images (N, C, H, W) to (C·k², C, k, k): eigenvectors of the second moments of all k×k patches, least
    first, divided by the square root of their eigenvalues. Of the two signs, an eigenvector gets the one that makes
    its largest entry positive.
    """
    channels, kernel = images.shape[1], WHITENING_KERNEL
    size = channels * kernel**2
    moments, count = torch.zeros(size, size, dtype=torch.float64), 0
    for some in images.split(256):  # all patches at once are many times the images' memory
        patches = F.unfold(some, kernel).cpu().double()  # (N, size, patches of an image)
        moments += (patches @ patches.mT).sum(0)
        count += patches.shape[0] * patches.shape[2]
    values, vectors = torch.linalg.eigh(moments / count)
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T
    signs = filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
    return (filters * signs).float().reshape(size, channels, kernel, kernel)
