"""The training loss: cross-entropy, and a regularization loss on the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment, Regularization


def class_weights(config: Experiment, labels: Tensor, classes: int) -> Tensor | None:
    """Weights (classes,) float32 of the classes in the loss, or None where all count alike.

    Balanced weights are N / (number of classes with images × images of the class), as in scikit-learn; 0 for a class
    without images, which label smoothing would count, too.
    """
    if config.class_weights == "none":
        return None
    counts = torch.bincount(labels, minlength=classes)
    used = counts > 0
    return (used * len(labels) / (used.sum() * counts.clamp(min=1))).float()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    config: Experiment,
    weights: Tensor | None,
    mix_ratio: Tensor | None = None,
    partner_labels: Tensor | None = None,
) -> Tensor:
    """The sum of the cross-entropy over logits (B, classes) and labels (B,).

    For mixed images, `mix_ratio` (B,) is the part of each that is its own image, and `partner_labels` (B,) are the
    labels of the rest.
    """
    options: dict[str, Any] = {"weight": weights, "label_smoothing": config.label_smoothing}
    if mix_ratio is None or partner_labels is None:
        return F.cross_entropy(logits, labels, reduction="sum", **options)
    own, partner = (F.cross_entropy(logits, of, reduction="none", **options) for of in (labels, partner_labels))
    return (mix_ratio * own + (1 - mix_ratio) * partner).sum()


def regularization_loss(model: nn.Module, regularization: Regularization) -> Tensor | None:
    """`l1` × the sum of absolute trained weights + `l2` × the sum of their squares; None where both are 0."""
    if not (regularization.l1 or regularization.l2):
        return None
    weights = [
        weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and (regularization.biases or not name.endswith("bias"))
    ]
    terms = [regularization.l1 * weight.abs().sum() for weight in weights if regularization.l1]
    terms += [regularization.l2 * weight.square().sum() for weight in weights if regularization.l2]
    return torch.stack(terms).sum()
