"""Transfer learning: any torchvision classification model with a new head."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks import Shape
from pipeline.networks.layers import layers
from pipeline.system.console import UserError

HEADS = ("classifier", "fc", "heads", "head")  # what torchvision's models call their last part


class Transfer(nn.Module):
    """`backbone` gives features (N, F), `head` logits. A frozen backbone stays in evaluation mode."""

    def __init__(self, network: Any, shape: Shape, weights: Path | None) -> None:
        super().__init__()
        self.frozen = network.freeze
        self.backbone = backbone(network.backbone, pretrained=network.weights is not None)
        if weights is not None:
            load_weights(self.backbone, weights, network.backbone)
        self.head = nn.Sequential(
            *layers(network.head, features(self.backbone, network.backbone, shape), shape.classes)
        )
        if self.frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Transfer:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).flatten(1))


def backbone(name: str, pretrained: bool) -> nn.Module:
    """The torchvision model without its head. Raises UserError for an unknown name."""
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4))
        raise UserError(f"params.yaml: network.backbone = '{name}': torchvision has no such model; like it: {close}")
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    if options:
        model.transform_input = pretrained  # these two were trained on other means than the rest
    head = next(part for part in HEADS if hasattr(model, part))
    # SqueezeNet's head is convolutional and does the pooling too, as does MaxViT's
    pools = any(isinstance(module, nn.Conv2d | nn.AdaptiveAvgPool2d) for module in getattr(model, head).modules())
    setattr(model, head, nn.AdaptiveAvgPool2d(1) if pools else nn.Identity())
    return model


def features(model: nn.Module, name: str, shape: Shape) -> int:
    """How many features the backbone gives for images of that shape. Raises UserError if it can't take them."""
    image = torch.zeros(1, shape.channels, shape.height, shape.width)
    was_training = model.training
    try:
        with torch.no_grad():
            return model.eval()(image).flatten(1).shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        size = f"{shape.channels}×{shape.height}×{shape.width}"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"params.yaml: network.backbone = '{name}' can't take images of {size}: {reason}") from None
    finally:
        model.train(was_training)


def load_weights(model: nn.Module, file: Path, name: str) -> None:
    """Load a state dict; what it holds beyond the backbone (the head it was trained with) is left out.

    Raises UserError for a file that is no state dict of tensors or lacks a part of the backbone.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        own = model.state_dict()
        lacking = [key for key in own if key not in state or state[key].shape != own[key].shape]
    except Exception as error:  # unpickling raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not a state dict that loads with weights_only=True: {reason}") from None
    lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
    if lacking:
        raise UserError(
            f"{file}: not weights of {name}: {len(lacking)} tensors are missing or of another shape, e.g. {lacking[0]}"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
