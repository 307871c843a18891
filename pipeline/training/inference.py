"""What a network makes of images that it is not trained on."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVALUATION_BATCH = 1000  # images, if they are small:
EVALUATION_VALUES = 2**24  # values in a batch; what a network makes of them takes many times their memory


def log_probabilities(model: nn.Module, data: Any, flip: bool = False) -> Tensor:
    """(N, classes) float32 on the CPU, in the order of `data` (see data.Batches)."""
    model.eval()
    size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // math.prod(data.pixels.shape)))
    with torch.inference_mode():
        chosen = torch.arange(len(data), device=data.device).split(size)
        given = torch.empty(len(data), data.classes, device=data.device)  # small results between large ones tear holes
        for positions, pixels in zip(chosen, data.batches(chosen), strict=True):
            given[positions] = scores(model, data.images(pixels), flip)
        return given.cpu()


def scores(model: nn.Module, images: Tensor, flip: bool) -> Tensor:
    """Log-probabilities (B, classes) float32; with `flip`, of the mean of each image's and its mirror's scores."""
    given = model(images)
    if flip:
        given = (given + model(images.flip(-1))) / 2
    return F.log_softmax(given.float(), dim=1)


def evaluate(model: nn.Module, data: Any, flip: bool = False) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    given, labels = log_probabilities(model, data, flip), data.labels.cpu()
    return F.nll_loss(given, labels).item(), (given.argmax(1) == labels).double().mean().item()
