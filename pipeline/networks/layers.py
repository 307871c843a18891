"""What several networks share: fully connected layers, and a backbone with a new head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.networks import Shape
from pipeline.system.console import UserError, one_line

if TYPE_CHECKING:
    from pipeline.config.networks import BackboneConfig, LayersConfig

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def layers(config: LayersConfig, inputs: int, outputs: int) -> list[nn.Module]:
    """Hidden layers of linear, batch norm, activation and dropout, then a linear layer."""
    modules: list[nn.Module] = []
    for size in config.hidden:
        modules.append(nn.Linear(inputs, size))
        if config.batch_norm:
            modules.append(nn.BatchNorm1d(size))
        modules.append(ACTIVATIONS[config.activation]())
        if config.dropout:
            modules.append(nn.Dropout(config.dropout))
        inputs = size
    return [*modules, nn.Linear(inputs, outputs)]


class BackboneClassifier(nn.Module):
    """`backbone` gives features (N, F), `head` logits (N, classes). A frozen backbone stays in evaluation mode.

    Raises UserError for a backbone that can't take images of `shape`.
    """

    def __init__(self, network: BackboneConfig, backbone: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.frozen = network.freeze
        self.backbone = backbone
        self.head = nn.Sequential(*layers(network.head, count_features(backbone, network.model, shape), shape.classes))
        if self.frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> BackboneClassifier:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).flatten(1))


def count_features(backbone: nn.Module, name: str, shape: Shape) -> int:
    """How many features the backbone gives for images of that shape. Raises UserError if it can't take them."""
    image = torch.zeros(1, shape.channels, shape.height, shape.width)
    was_training = backbone.training
    try:
        with torch.no_grad():
            return backbone.eval()(image).flatten(1).shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        size = f"{shape.channels}×{shape.height}×{shape.width}"
        reason = one_line(error)
        raise UserError(f"params.yaml: network.model = '{name}' can't take images of {size}: {reason}") from None
    finally:
        backbone.train(was_training)


def load_weights(backbone: nn.Module, file: Path, name: str) -> None:
    """Load a state dict; what it holds beyond the backbone, such as the layer that was replaced, is left out.

    Raises UserError for a file that is no state dict of tensors or lacks a part of the backbone.
    """
    own = backbone.state_dict()
    try:
        state = read_weights(file)
        lacking = [key for key in own if key not in state or state[key].shape != own[key].shape]
    except Exception as error:  # unpickling raises whatever it likes
        reason = one_line(error)
        raise UserError(f"{file}: not a state dict, of safetensors or weights_only=True: {reason}") from None
    lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
    if lacking:
        raise UserError(
            f"{file}: not weights of {name}: {len(lacking)} tensors are missing or of another shape, e.g. {lacking[0]}"
        )
    own.update({key: state[key] for key in own if key in state})  # keeps the version that MNASNet asks for
    backbone.load_state_dict(own)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a file of safetensors, or in one that `torch.load` reads without running its code."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load

        return load(file.read_bytes())
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state
