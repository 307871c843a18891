"""Likely wrong labels: confident learning on the probabilities that a linear head gives images it has not seen.

C. Northcutt, L. Jiang and I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
SHRINKAGE = 0.5  # of the head's covariance toward a multiple of the identity
BLOCK = 4096  # images whose probabilities are in memory


class Judged(NamedTuple):
    """What is thought of each of N labels."""

    suggested: NDArray[np.int64]  # (N,) the class that suits the image best, its own apart
    margin: NDArray[np.float64]  # (N,) the lower, the likelier its label is wrong
    wrong: NDArray[np.bool_]  # (N,) whether `suggested` passes its threshold, and by more than the label its own
    accuracy: float  # of the heads on images that they have not seen, by the labels as they are


def large_enough(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes (C,) whose images come from FOLDS groups at least: of these, every head has seen some."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    classes, counts = np.unique(pairs[0], return_counts=True)
    return classes[counts >= FOLDS]


def judge(points: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Judged:
    """Judge the labels (N,) of images by their features (N, D).

    Images of one of the `groups` (N,) are in one fold, so that no head has seen a copy of what it judges. A class's
    threshold is the probability that it has, on average, for the images with its label. A label is thought wrong if
    another class reaches its own threshold, and exceeds it by more than the label does. The margin is the difference
    of both excesses: the paper's normalized margin, for classes of unequal difficulty.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedGroupKFold

    classes, numbers = np.unique(labels, return_inverse=True)
    # closed form, so quick and without a random start; a logistic regression finds fewer of the wrong labels
    heads = [
        (LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(points[seen], numbers[seen]), unseen)
        for seen, unseen in StratifiedGroupKFold(FOLDS).split(points, numbers, groups)
    ]

    def probabilities() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        for head, unseen in heads:
            for rows in np.split(unseen, range(BLOCK, len(unseen), BLOCK)):
                likely = np.zeros((len(rows), len(classes)))
                likely[:, head.classes_] = head.predict_proba(points[rows])  # a fold may hold out a whole class
                yield rows, likely

    own, correct = np.empty(len(labels)), np.empty(len(labels), bool)
    for rows, likely in probabilities():
        own[rows] = likely[np.arange(len(rows)), numbers[rows]]
        correct[rows] = likely.argmax(1) == numbers[rows]
    thresholds = np.bincount(numbers, own) / np.bincount(numbers)

    suggested, margin, wrong = np.empty_like(numbers), np.empty(len(labels)), np.empty(len(labels), bool)
    for rows, likely in probabilities():
        above = likely - thresholds
        above[np.arange(len(rows)), numbers[rows]] = -np.inf
        suggested[rows] = above.argmax(1)
        margin[rows] = own[rows] - thresholds[numbers[rows]] - above.max(1)
        wrong[rows] = (above.max(1) >= 0) & (margin[rows] < 0)
    return Judged(classes[suggested], margin, wrong, float(correct.mean()))
