"""What a model says of the images of one split, as arrays that the metrics and figures are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.evaluation.inference import log_probabilities, mean_loss

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.experiments import TTA
    from pipeline.dataset.batches import Batches

TOP = 5
MOST_PROBABILITIES = 2**26  # most probabilities of all classes that are kept, 256 MB: 50,000 images of 1,000 classes


class Predictions(NamedTuple):
    """Of N images. But for `probabilities`, memory does not grow with the number of classes."""

    rows: NDArray[np.int64]  # (N,), positions in the packed data set
    labels: NDArray[np.int64]  # (N,), the true classes
    predicted: NDArray[np.int64]  # (N,)
    log_truth: NDArray[np.float32]  # (N,), log-probability of the true class, before calibration
    uncalibrated: NDArray[np.float32]  # (N,), probability of the predicted class, before calibration
    probability: NDArray[np.float32]  # (N,), the same after it
    in_top: NDArray[np.bool_]  # (N,), whether the true class is among the TOP most probable ones
    probabilities: NDArray[np.float32] | None  # (N, classes), calibrated; None where they are too many

    def loss(self) -> float:
        """Mean cross-entropy, before calibration."""
        return mean_loss(torch.from_numpy(self.log_truth))

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.labels == self.predicted


@torch.inference_mode()
def predict(
    model: nn.Module, data: Batches, rows: NDArray[np.int64], tta: TTA, temperature: float = 1.0
) -> Predictions:
    """What a model says of `data`, the images in these rows of the packed data set."""
    count, device, top = len(data), data.device, min(TOP, data.classes)
    # allocated once: small tensors that are kept between the large ones of batches would fragment memory
    truth, best, calibrated = (torch.empty(count, device=device) for _ in range(3))
    predicted = torch.empty(count, dtype=torch.int64, device=device)
    in_top = torch.empty(count, dtype=torch.bool, device=device)
    kept = torch.empty(count, data.classes) if count * data.classes <= MOST_PROBABILITIES else None
    for positions, given in log_probabilities(model, data, tta):
        labels = data.labels[positions, None]
        truth[positions] = given.gather(1, labels).squeeze(1)
        best[positions], predicted[positions] = given.max(dim=1)
        in_top[positions] = (given.topk(top).indices == labels).any(1)
        probabilities = F.softmax(given.div_(temperature), dim=1)
        calibrated[positions] = probabilities.amax(1)
        if kept is not None:
            kept[positions.cpu()] = probabilities.cpu()
    return Predictions(
        rows,
        labels=data.labels.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        log_truth=truth.cpu().numpy(),
        uncalibrated=best.exp().cpu().numpy(),
        probability=calibrated.cpu().numpy(),
        in_top=in_top.cpu().numpy(),
        probabilities=None if kept is None else kept.numpy(),
    )


def pooled(parts: list[Predictions]) -> Predictions:
    """What several models say, each of its own images."""
    columns = [
        None if any(part is None for part in column) else np.concatenate(column) for column in zip(*parts, strict=True)
    ]
    return Predictions._make(columns)
