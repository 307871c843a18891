"""Predictions of a network for images, batch by batch, without gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.dataset.batches import Rows

EVALUATION_BATCH = 1000  # images in a batch, where they are small
EVALUATION_VALUES = 2**24  # most values in a batch: activations of a network take many times their memory


class Images(Protocol):
    """What predictions are made for: images, or the features that a frozen backbone gives for them."""

    pixels: Rows
    labels: Tensor  # (N,) int64
    classes: int
    device: torch.device

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]: ...

    def images(self, pixels: Tensor) -> Tensor: ...


class Answers(NamedTuple):
    """Three numbers for each of N images, on the CPU, so that memory does not grow with the number of classes."""

    truth: Tensor  # (N,) float32, log-probability of the true class
    named: Tensor  # (N,) int64, the predicted class
    best: Tensor  # (N,) float32, its log-probability

    def loss(self) -> float:
        """Mean cross-entropy."""
        return F.nll_loss(self.truth[:, None], torch.zeros_like(self.named)).item()

    def accuracy(self, labels: Tensor) -> float:
        return (self.named == labels).double().mean().item()


def answers(model: nn.Module, data: Images, flip: bool = False) -> Answers:
    """Predictions for all images, in the order of `data`; with `flip`, averaged over each image and its mirror."""
    model.eval()
    values = max(math.prod(data.pixels.shape), data.classes)  # of one image, or of its logits
    size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // values))
    count, device = len(data), data.device
    with torch.inference_mode():
        chosen = torch.arange(count, device=device).split(size)
        # allocated once: small tensors that are kept between the large ones of batches would fragment memory
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


def evaluate(model: nn.Module, data: Images, flip: bool = False) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all images."""
    given = answers(model, data, flip)
    return given.loss(), given.accuracy(data.labels.cpu())
