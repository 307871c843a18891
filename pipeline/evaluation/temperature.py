"""Temperature scaling: divide the logits by one number, so that probabilities tell how often a model is right.

C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On calibration of modern neural networks, ICML 2017. It changes no
predicted class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pipeline.evaluation.inference import log_probabilities

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.config.experiments import TTA
    from pipeline.evaluation.inference import Images

BOUNDS = (-4.0, 4.0)  # of its logarithm
PRIOR = 0.5  # standard deviation of the logarithm before any image is seen: 0.37 to 2.7 are usual
FITTED_VALUES = 2**23  # most logits that it is fitted to; of more, evenly spaced images are taken
DIGITS = 4  # more are noise, and the last ones of a float64 differ between processors


@torch.inference_mode()
def calibrate(model: nn.Module, data: Images, tta: TTA) -> float:
    """The temperature with which a model suits the labels of `data` best."""
    count = min(len(data), max(1, FITTED_VALUES // data.classes))
    chosen = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long()
    logits = torch.empty(count, data.classes, dtype=torch.float64)
    start = 0
    for positions, given in log_probabilities(model, data, tta, chosen):  # logits but for a constant of each image
        logits[start : start + len(positions)] = given.cpu()
        start += len(positions)
    return fit(logits, data.labels.cpu()[chosen])


def fit(logits: Tensor, labels: Tensor) -> float:
    """The temperature, to 4 digits, that is most probable given logits (N, classes) float64 and labels.

    That is the one with the lowest cross-entropy, summed over images, plus the prior's term. The prior holds it near 1
    where a few images say little: by cross-entropy alone, a model that gets all of them right would have 0.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        cross_entropy = F.cross_entropy(logits / math.exp(log_temperature), labels, reduction="sum").item()
        return cross_entropy + (log_temperature / PRIOR) ** 2 / 2

    found = minimize_scalar(loss, bounds=BOUNDS, method="bounded", options={"xatol": 1e-7})
    return float(f"{math.exp(found.x):.{DIGITS}g}")
