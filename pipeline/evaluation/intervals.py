"""95 % intervals of what was measured on a sample of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL_95 = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution
RESAMPLES = 1000


def wilson(correct: ArrayLike, images: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of an accuracy, or of many: `correct` of so many `images`, at least 1.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22, 1927. Unlike the usual ± it holds for few images and for accuracies near 0 and 1.
    """
    correct, images = np.asarray(correct, np.float64), np.asarray(images, np.float64)
    square = NORMAL_95**2
    middle = (correct + square / 2) / (images + square)
    margin = NORMAL_95 * np.sqrt(correct * (images - correct) / images + square / 4) / (images + square)
    share = correct / images  # where all or none are right, rounding could put it outside of the interval
    return np.minimum(middle - margin, share), np.maximum(middle + margin, share)


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    """The mean F1 over the classes that have images or are predicted; true and predicted classes are (N,) int64."""
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    correct = np.bincount(labels[labels == predicted], minlength=classes)
    seen = both > 0
    return float(np.mean(2 * correct[seen] / both[seen]))


def macro_f1_interval(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the macro F1, over images drawn with replacement; always the same."""
    draw = np.random.default_rng(0)
    found = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = draw.integers(0, len(labels), len(labels))
        found[number] = macro_f1(labels[chosen], predicted[chosen], classes)
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
