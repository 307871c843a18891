"""Fully connected layers, which several networks end with."""

from __future__ import annotations

from typing import Any

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def layers(described: Any, inputs: int, outputs: int) -> list[nn.Module]:
    """Hidden layers of linear, batch norm, activation and dropout, then a linear one; see config.networks.Layers."""
    modules: list[nn.Module] = []
    for size in described.hidden:
        modules.append(nn.Linear(inputs, size))
        if described.batch_norm:
            modules.append(nn.BatchNorm1d(size))
        modules.append(ACTIVATIONS[described.activation]())
        if described.dropout:
            modules.append(nn.Dropout(described.dropout))
        inputs = size
    return [*modules, nn.Linear(inputs, outputs)]
