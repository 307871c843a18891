"""How good a model is at each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.evaluation.predictions import Predictions


def table(given: Predictions, classes: int) -> pd.DataFrame:
    """A row for each class, whose number is the index. What is 0 / 0 is NaN: the recall of a class without images."""
    import pandas as pd

    labels, probabilities = given.labels, given.probabilities
    images, predicted, correct = (
        np.bincount(values, minlength=classes) for values in (labels, given.predicted, labels[given.correct])
    )
    others = len(labels) - images
    return pd.DataFrame(
        {
            "images": images,
            "precision": ratio(correct, predicted),
            "recall": ratio(correct, images),
            "f1": ratio(2 * correct, images + predicted),
            "specificity": ratio(others - (predicted - correct), others),
            "auc": auc(labels, probabilities) if probabilities is not None else np.full(classes, np.nan),
        }
    )


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def auc(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The area under the ROC curve of each class against the rest, of labels (N,) and scores (N, classes).

    NaN where there are no images of the class, or no others.
    """
    from sklearn.metrics import roc_auc_score

    areas = np.full(scores.shape[1], np.nan)
    for number in np.unique(labels):
        own = labels == number
        if not own.all():
            areas[number] = roc_auc_score(own, scores[:, number])
    return areas
