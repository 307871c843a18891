"""Metrics of one experiment on one side of the split, over all its trainings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.evaluation.inference import Answers


@dataclass
class Side:
    """The images of `val` or `test`, and what the models say of them; the first model is the one that predicts."""

    split: str
    rows: NDArray[np.int64]  # (N,), positions in the packed data set
    accuracies: list[float] = field(default_factory=list)  # of each training, one per seed
    # of the first model:
    loss: float = 0.0  # mean cross-entropy
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # (N,), the true classes
    predicted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # (N,)
    # (N,), the probability of the predicted class
    probability: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def add(self, given: Answers, labels: Tensor) -> None:
        """Take what one more model says of the images, whose classes are `labels`, (N,) int64."""
        self.accuracies.append(given.accuracy(labels))
        if len(self.accuracies) == 1:
            self.loss, self.labels = given.loss(), labels.numpy()
            self.predicted, self.probability = given.named.numpy(), given.best.exp().numpy()

    def metrics(self) -> dict[str, float]:
        """Accuracy, loss and macro F1 of the first model; over several seeds, mean and sample standard deviation."""
        from sklearn.metrics import f1_score

        found = {
            "accuracy": self.accuracies[0],
            "loss": self.loss,
            "macro_f1": float(f1_score(self.labels, self.predicted, average="macro", zero_division=0.0)),
        }
        if len(self.accuracies) > 1:
            found["accuracy_mean"] = float(np.mean(self.accuracies))
            found["accuracy_sd"] = float(np.std(self.accuracies, ddof=1))
        return found

    def __str__(self) -> str:
        text = f"{self.split} accuracy {self.accuracies[0]:.4f}, loss {self.loss:.4f} on {len(self.rows):,} images"
        if len(self.accuracies) > 1:
            mean, sd = np.mean(self.accuracies), np.std(self.accuracies, ddof=1)
            text += f"; over {len(self.accuracies)} seeds: accuracy {mean:.4f} ± {sd:.4f}"
        return text
