"""What a network makes of images that it is not trained on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVALUATION_BATCH = 1000  # images, if they are small:
EVALUATION_VALUES = 2**24  # values in a batch; what a network makes of them takes many times their memory


class Answers(NamedTuple):
    """What is kept of what a network says of N images, on the CPU: a few numbers of each, for any number of classes."""

    truth: Tensor  # (N,) float32, log-probability of the class that the image is of
    named: Tensor  # (N,) int64, the most probable class
    best: Tensor  # (N,) float32, its log-probability

    def loss(self) -> float:
        """Mean cross-entropy."""
        return F.nll_loss(self.truth[:, None], torch.zeros_like(self.named)).item()

    def accuracy(self, labels: Tensor) -> float:
        return (self.named == labels).double().mean().item()


def answers(model: nn.Module, data: Any, flip: bool = False) -> Answers:
    """In the order of `data` (see data.Batches)."""
    model.eval()
    values = max(math.prod(data.pixels.shape), data.classes)  # of an image, or of what is said of it
    size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // values))
    count, device = len(data), data.device
    with torch.inference_mode():
        chosen = torch.arange(count, device=device).split(size)
        # small results between large ones tear holes
        truth, best = torch.empty(count, device=device), torch.empty(count, device=device)
        named = torch.empty(count, dtype=torch.int64, device=device)
        for positions, pixels in zip(chosen, data.batches(chosen), strict=True):
            given = logits(model, data.images(pixels), flip)
            truth[positions] = given.gather(1, data.labels[positions, None]).squeeze(1)
            best[positions], named[positions] = given.max(dim=1)
        return Answers(truth.cpu(), named.cpu(), best.cpu())


def logits(model: nn.Module, images: Tensor, flip: bool) -> Tensor:
    """Log-probabilities (B, classes) float32; with `flip`, of the mean of each image's and its mirror's logits."""
    given = model(images)
    if flip:
        given = (given + model(images.flip(-1))) / 2
    return F.log_softmax(given.float(), dim=1)


def evaluate(model: nn.Module, data: Any, flip: bool = False) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    given = answers(model, data, flip)
    return given.loss(), given.accuracy(data.labels.cpu())
