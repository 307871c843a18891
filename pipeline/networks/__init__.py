"""Networks by the name that `params.yaml` gives them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Shape(NamedTuple):
    """What a network takes, (N, channels, height, width) float32, and gives, (N, classes) logits."""

    channels: int
    height: int
    width: int
    classes: int


def build(network: Any, shape: Shape, weights: Path | None = None) -> nn.Module:
    """Build the network that a config describes (see `pipeline.config.networks.Network`).

    Its random weights come from torch's global generator; `weights` is a file with pretrained ones for a backbone.
    A network that has a method `initialize` is to be given normalised training images before it learns.
    Raises UserError for a backbone that does not exist or can't take the shape, or for weights that do not fit it.
    """
    if network.name == "mlp":
        from pipeline.networks.mlp import mlp

        return mlp(network, shape)
    if network.name == "cnn":
        from pipeline.networks.cnn import cnn

        return cnn(network, shape)
    if network.name == "resnet":
        from pipeline.networks.resnet import resnet

        return resnet(network, shape)
    if network.name == "airbench":
        from pipeline.networks.airbench import Airbench

        return Airbench(network, shape)
    from pipeline.networks.torchvision import Transfer

    return Transfer(network, shape, weights)
