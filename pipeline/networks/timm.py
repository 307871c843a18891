"""Transfer learning: any model of timm with a new head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.networks import Shape
from pipeline.networks.layers import BackboneClassifier

if TYPE_CHECKING:
    from pipeline.config.networks import TimmConfig


def build(network: TimmConfig, shape: Shape) -> BackboneClassifier:
    model = network.library().create_model(network.model, pretrained=False, num_classes=0)
    return BackboneClassifier(network, model, shape)
