"""A multilayer perceptron on the flattened image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pipeline.networks import Shape
from pipeline.networks.layers import layers

if TYPE_CHECKING:
    from pipeline.config.networks import MLPConfig


def build(network: MLPConfig, shape: Shape) -> nn.Sequential:
    modules = [nn.Flatten(), *layers(network, shape.channels * shape.height * shape.width, shape.classes)]
    if network.log_softmax:
        modules.append(nn.LogSoftmax(dim=1))
    model = nn.Sequential(*modules)
    if network.initialization == "xavier_normal":
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
    return model
