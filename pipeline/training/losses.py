"""What a step makes smaller: cross-entropy, and a regularization_loss on weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def class_weights(config: Any, labels: Tensor, classes: int) -> Tensor | None:
    """Weights (classes,) float32 with mean 1 over `labels`, or None; balanced ones are N / (classes × count)."""
    if config.class_weights == "none":
        return None
    counts = torch.bincount(labels, minlength=classes)
    return (len(labels) / ((counts > 0).sum() * counts.clamp(min=1))).float()


def cross_entropy(
    logits: Tensor, labels: Tensor, config: Any, weights: Tensor | None, share: Tensor | None, others: Tensor | None
) -> Tensor:
    """Sum over a batch, of logits (B, classes) float32 and labels (B,) int64.

    Of images mixed with others, `share` (B,) is what is left of each, and `others` (B,) are the labels of the rest.
    """
    options: dict[str, Any] = {"weight": weights, "label_smoothing": config.label_smoothing}
    if share is None or others is None:
        return F.cross_entropy(logits, labels, reduction="sum", **options)
    own, other = (F.cross_entropy(logits, of, reduction="none", **options) for of in (labels, others))
    return (share * own + (1 - share) * other).sum()


def regularization_loss(model: nn.Module, regularization: Any) -> Tensor | None:
    """`l1` × the sum of absolute trained weights + `l2` × the sum of their squares, or None where both are 0."""
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
