"""A plain convolutional network."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.networks import Shape, convolved
from pipeline.networks.layers import ACTIVATIONS, layers


def cnn(network: Any, shape: Shape) -> nn.Sequential:
    modules: list[nn.Module] = []
    channels = shape.channels
    for filters in network.convolutions:
        modules.append(nn.Conv2d(channels, filters, network.kernel, padding=network.padding))
        if network.batch_norm:
            modules.append(nn.BatchNorm2d(filters))
        modules.append(ACTIVATIONS[network.activation]())
        if network.pool > 1:
            modules.append(nn.MaxPool2d(network.pool))
        channels = filters
    height, width = convolved(network, shape.height, shape.width)
    return nn.Sequential(*modules, nn.Flatten(), *layers(network, channels * height * width, shape.classes))
