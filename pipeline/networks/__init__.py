"""Networks by the name that `params.yaml` gives them: each is a module here and a class in `config/networks.py`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.networks import Network


class Shape(NamedTuple):
    """What a network takes, (N, channels, height, width) float32, and gives, (N, classes) logits."""

    channels: int
    height: int
    width: int
    classes: int


def build(network: Network, shape: Shape, weights: Path | None = None) -> nn.Module:
    """Build the network that a config describes.

    Its random weights come from torch's global generator; `weights` is a file with pretrained ones for a backbone.
    A network that has a method `initialize` is to be given normalized training images before it learns.
    Raises UserError for a backbone that does not exist or can't take the shape, or for weights that do not fit it.
    """
    model: nn.Module = import_module(f"pipeline.networks.{network.name}").build(network, shape)
    if weights is not None:
        from pipeline.networks.layers import load_weights

        load_weights(model.backbone, weights, network.model)  # type: ignore[arg-type, union-attr]
    return model
