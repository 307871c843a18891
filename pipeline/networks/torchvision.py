"""Transfer learning: any classification model of torchvision with a new head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pipeline.networks import Shape
from pipeline.networks.layers import BackboneClassifier

if TYPE_CHECKING:
    from pipeline.config.networks import TorchvisionConfig

CLASSIFIERS = ("classifier", "fc", "heads", "head")  # what torchvision's models call their last part


def build(network: TorchvisionConfig, shape: Shape) -> BackboneClassifier:
    builder = network.builder()
    options = {"aux_logits": False, "init_weights": True} if network.model in ("googlenet", "inception_v3") else {}
    model = builder(weights=None, **options)
    if options:  # the published weights of these two were trained on other means than the rest
        model.transform_input = network.weights is not None  # type: ignore[assignment]
    if network.replace == "classifier":
        replace_classifier(model)
    else:
        replace_last_layer(model)
    return BackboneClassifier(network, model, shape)


def replace_last_layer(model: nn.Module) -> None:
    """Let the model give what its last linear layer takes, or its last convolution where it has no linear layer."""
    named = list(model.named_modules())
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    last = linear or [name for name, module in named if isinstance(module, nn.Conv2d)]  # SqueezeNet
    model.set_submodule(last[-1], nn.Identity())


def replace_classifier(model: nn.Module) -> None:
    """Let the model give what its classifier takes, averaged over the image where the classifier would pool."""
    name = next(part for part in CLASSIFIERS if hasattr(model, part))
    pools = any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.get_submodule(name).modules())
    setattr(model, name, nn.AdaptiveAvgPool2d(1) if pools else nn.Identity())
