"""What a network gives for images, batch by batch, without gradients: predictions, or a backbone's features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pipeline.config.experiments import TTA
    from pipeline.dataset.rows import Rows

EVALUATION_BATCH = 1000  # images in a batch, where they are small
EVALUATION_VALUES = 2**24  # most values in a batch: activations of a network take many times their memory
SHIFTS = (1, -1)  # pixels to the right and down, of the views of `flip_and_shift`


class Images(Protocol):
    """What predictions are made for: images, or the features that a frozen backbone gives for them."""

    pixels: Rows
    labels: Tensor  # (N,) int64
    classes: int
    device: torch.device

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]: ...

    def images(self, pixels: Tensor) -> Tensor: ...


class Outcome(NamedTuple):
    """Two numbers for each of N images, on the CPU, so that memory does not grow with the number of classes."""

    log_truth: Tensor  # (N,) float32, log-probability of the true class
    predicted: Tensor  # (N,) int64, the class

    def loss(self) -> float:
        """Mean cross-entropy."""
        return mean_loss(self.log_truth)

    def accuracy(self, labels: Tensor) -> float:
        return (self.predicted == labels).double().mean().item()


@torch.inference_mode()
def answers(model: nn.Module, data: Images, tta: TTA = False) -> Outcome:
    """Predictions for all images, in the order of `data`, averaged over the views that `tta` asks for."""
    # allocated once: small tensors that are kept between the large ones of batches would fragment memory
    log_truth = torch.empty(len(data), device=data.device)
    predicted = torch.empty(len(data), dtype=torch.int64, device=data.device)
    for positions, given in log_probabilities(model, data, tta):
        log_truth[positions] = given.gather(1, data.labels[positions, None]).squeeze(1)
        predicted[positions] = given.max(dim=1).indices
    return Outcome(log_truth.cpu(), predicted.cpu())


@torch.inference_mode()
def log_probabilities(
    model: nn.Module, data: Images, tta: TTA, chosen: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch, positions (B,) in `data`, and the log-probabilities of these images: (B, classes) float32.

    All images in their order, or those at the positions `chosen`, (N,) int64.
    """
    model.eval()
    # of one image: its pixels, or its logits with what is computed from them
    values = max(math.prod(data.pixels.shape), 4 * data.classes)
    size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // values))
    batches = (torch.arange(len(data)) if chosen is None else chosen).to(data.device).split(size)
    for positions, pixels in zip(batches, data.batches(batches), strict=True):
        yield positions, F.log_softmax(mean_logits(model, data.images(pixels), tta).float(), dim=1)


def mean_loss(log_truth: Tensor) -> float:
    """Mean cross-entropy, of the log-probabilities (N,) of the true classes."""
    return F.nll_loss(log_truth[:, None], torch.zeros(len(log_truth), dtype=torch.int64)).item()


def mean_logits(model: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """The mean logits (B, classes) over the views of each image.

    With `tta`, these are the image and its mirror image. `flip_and_shift` adds both, shifted one pixel down and
    right and one up and left, with borders by reflection: the pair in place has half of the weight, the shifted ones a
    quarter each.
    """
    given = mirrored_logits(model, images) if tta else model(images)
    if tta == "flip_and_shift":
        from pipeline.dataset.augmentation import crop

        offsets = images.new_ones(images.shape[0], 2)  # `len` would fix the size of the batch in an exported graph
        moved = [mirrored_logits(model, crop.apply(images, shift * offsets)) for shift in SHIFTS]
        given = given / 2 + sum(moved) / (2 * len(SHIFTS))
    return given


def mirrored_logits(model: nn.Module, images: Tensor) -> Tensor:
    given: Tensor = model(images)
    return (given + model(images.flip(-1))) / 2


def evaluate(model: nn.Module, data: Images, tta: TTA = False) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all images."""
    given = answers(model, data, tta)
    return given.loss(), given.accuracy(data.labels.cpu())


def write_features(
    path: Path, backbone: nn.Module, batches: Iterable[Tensor], count: int, device: torch.device, precision: str
) -> None:
    """Write the features of `count` images as a .npy file of (count, F) float32; `batches` are (B, C, H, W)."""
    backbone.eval()
    with path.open("wb") as out, torch.inference_mode():
        for number, images in enumerate(batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                features = backbone(images).flatten(1).float().cpu().numpy()
            if not number:
                header = {"descr": features.dtype.str, "fortran_order": False, "shape": (count, features.shape[1])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(np.ascontiguousarray(features).data)
