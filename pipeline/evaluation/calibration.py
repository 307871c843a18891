"""Whether probabilities tell how often a model is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as in Guo et al. 2017


class Bins(NamedTuple):
    """Images by the probability of their predicted class, in bins of equal width that are not empty."""

    images: NDArray[np.int64]  # (B,), how many
    probability: NDArray[np.float64]  # (B,), their mean probability
    accuracy: NDArray[np.float64]  # (B,), the fraction of them that is right

    def error(self) -> float:
        """The expected calibration error: how far accuracy and probability are apart, on average over images.

        M. P. Naeini, G. F. Cooper and M. Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning,
        AAAI 2015, of the predicted class alone, as in Guo et al., On calibration of modern neural networks, ICML 2017.
        """
        return float(np.average(np.abs(self.accuracy - self.probability), weights=self.images))


def binned(probability: NDArray[np.float32], correct: NDArray[np.bool_]) -> Bins:
    """Put images, (N,), into bins (0, 1/15], (1/15, 2/15], … by the probability of their predicted class."""
    edges = np.arange(1, BINS) / BINS
    number = np.digitize(probability.astype(np.float64), edges, right=True)
    count = np.bincount(number, minlength=BINS)
    some = count > 0
    means = (np.bincount(number, values, BINS)[some] / count[some] for values in (probability, correct))
    return Bins(count[some], *means)
