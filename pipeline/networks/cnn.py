"""A plain convolutional network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.networks import Shape
from pipeline.networks.layers import ACTIVATIONS, layers

if TYPE_CHECKING:
    from pipeline.config.networks import CNNConfig

# These keep the order of values, so pooling first gives the same, with fewer values to activate
MONOTONIC = ("relu", "sigmoid", "tanh")


def build(network: CNNConfig, shape: Shape) -> nn.Sequential:
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
    body = nn.Sequential(*modules, nn.Flatten()).eval()
    with torch.no_grad():
        features = body(torch.zeros(1, shape.channels, shape.height, shape.width)).shape[1]
    return nn.Sequential(*body.train(), *layers(network, features, shape.classes))
