"""Metrics of one experiment on one split, over all its trainings."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation import per_class
from pipeline.evaluation.calibration import binned
from pipeline.evaluation.intervals import macro_f1_interval, wilson

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.evaluation.predictions import Predictions


def measure(given: Predictions, table: pd.DataFrame) -> dict[str, float]:
    """The metrics of one model; `table` is what `per_class` says of its predictions."""
    from sklearn.metrics import f1_score

    from pipeline.evaluation.predictions import TOP

    found = {
        "accuracy": float(given.correct.mean()),
        "loss": given.loss(),
        "macro_f1": float(f1_score(given.labels, given.predicted, average="macro", zero_division=0.0)),
    }
    if len(table) > TOP:
        found[f"top{TOP}_accuracy"] = float(given.in_top.mean())
    if table["auc"].notna().any():
        found["macro_auc"] = float(table["auc"].mean())  # over the classes that have one
    found["ece_uncalibrated"] = binned(given.uncalibrated, given.correct).error()
    found["ece"] = binned(given.probability, given.correct).error()
    return found


@dataclass
class SplitResults:
    """What all models of an experiment say of `val` or `test`.

    Usually all are asked about the same images, and the first one is the one that predicts. With `pools`, each is asked
    about images of its own, and what they say is put together.
    """

    split: str
    classes: int
    pools: bool = False
    trainings: list[dict[str, float]] = field(default_factory=list)  # the metrics of each
    predictions: Predictions = field(init=False)  # of the first model, or of all
    table: pd.DataFrame = field(init=False)  # of these, see `per_class`

    def add(self, given: Predictions) -> None:
        """Take what one more model says."""
        from pipeline.evaluation.predictions import pooled

        table = per_class.table(given, self.classes)
        self.trainings.append(measure(given, table))
        if len(self.trainings) == 1:
            self.predictions, self.table = given, table
        elif self.pools:
            self.predictions = pooled([self.predictions, given])
            self.table = per_class.table(self.predictions, self.classes)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What `predictions` reach, with 95 % intervals; over several trainings, mean and sample standard deviation."""
        given = self.predictions
        found: dict[str, float] = {}
        for key, value in measure(given, self.table).items() if self.pools else self.trainings[0].items():
            found[key] = value
            if key == "accuracy":
                around = wilson(given.correct.sum(), len(given.labels))
                found |= zip(("accuracy_low", "accuracy_high"), map(float, around), strict=True)
            if key == "macro_f1":
                interval = macro_f1_interval(given.labels, given.predicted, self.classes)
                found |= zip(("macro_f1_low", "macro_f1_high"), interval, strict=True)
        if len(self.trainings) > 1:
            # a fold of one class has no AUC
            for key in (key for key in self.trainings[0] if all(key in training for training in self.trainings)):
                values = [training[key] for training in self.trainings]
                found |= {f"{key}_mean": float(np.mean(values)), f"{key}_sd": float(np.std(values, ddof=1))}
        return found

    def __str__(self) -> str:
        found = self.metrics
        text = (
            f"{self.split} accuracy {found['accuracy']:.4f}"
            f" ({found['accuracy_low']:.4f} to {found['accuracy_high']:.4f}), loss {found['loss']:.4f}"
            f" on {len(self.predictions.labels):,} images"
        )
        if len(self.trainings) > 1:
            text += (
                f"; over {len(self.trainings)} trainings:"
                f" accuracy {found['accuracy_mean']:.4f} ± {found['accuracy_sd']:.4f}"
            )
        return text
