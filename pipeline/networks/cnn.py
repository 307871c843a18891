"""A plain convolutional network."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.networks import Shape, convolved
from pipeline.networks.layers import ACTIVATIONS, layers

MONOTONIC = ("relu", "sigmoid", "tanh")  # the largest of some values stays the largest: pooled first, the same for less


def cnn(network: Any, shape: Shape) -> nn.Sequential:
    modules: list[nn.Module] = []
    channels = shape.channels
    for filters in network.convolutions:
        modules.append(nn.Conv2d(channels, filters, network.kernel, padding=network.padding))
        if network.batch_norm:
            modules.append(nn.BatchNorm2d(filters))
        pooled: list[nn.Module] = [nn.MaxPool2d(network.pool)] if network.pool > 1 else []
        active = ACTIVATIONS[network.activation]()
        modules += [*pooled, active] if network.activation in MONOTONIC else [active, *pooled]
        channels = filters
    height, width = convolved(network, shape.height, shape.width)
    return nn.Sequential(*modules, nn.Flatten(), *layers(network, channels * height * width, shape.classes))
