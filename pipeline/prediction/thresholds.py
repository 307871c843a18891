"""The probability below which a model says `unsure`, chosen by validation images for a wanted precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.stored import FILE, check_evaluated, read_val
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model


class Choice(NamedTuple):
    """A threshold, and what it does to the images that it was chosen by."""

    threshold: float
    kept: int  # images whose probability reaches it
    correct: int  # of these
    images: int

    def __str__(self) -> str:
        low, high = (100 * bound for bound in wilson(self.correct, self.kept))
        return (
            f"threshold {self.threshold:.4f}: of {self.images:,} val images it keeps {self.kept:,}"
            f" ({100 * self.kept / self.images:.1f} %), of which {100 * self.correct / self.kept:.2f} % are right"
            f" (95 % interval {low:.2f} % to {high:.2f} %)"
        )


def choose_for(model: Model, precision: float) -> Choice:
    """The threshold that gives a model this precision on validation images, and keeps the most of them.

    Raises UserError where the model was not evaluated on any, or no threshold reaches the precision.
    """
    name = str(model.about["experiment"])
    check_evaluated(model.folder, name)
    file = Path("reports", name, FILE)
    val = read_val(file, f"evaluate@{name}").to_pandas()
    if val.empty:
        raise UserError(
            f"{file} has no validation images, by which to choose a threshold: {name} trains on all, or none are"
            " split off; give --threshold instead"
        )
    right = (val["label"] == val["predicted"]).to_numpy()
    choice = choose(val["probability"].to_numpy(), right, precision)
    if isinstance(choice, Choice):
        return choice
    raise UserError(
        f"--precision {precision:g}: no threshold reaches it on the {len(val):,} val images of {name}; the best has"
        f" {choice:.4f}"
    )


def choose(probability: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> Choice | float:
    """The choice by (N,) images: the highest probability of each, and whether its class is right.

    Where no threshold reaches the precision, the highest that one does.
    """
    order = np.argsort(-probability, kind="stable")
    sorted_, correct = probability[order], right[order].cumsum()
    ends = np.flatnonzero(np.append(sorted_[1:] < sorted_[:-1], True))  # equal probabilities are kept together
    reached = correct[ends] / (ends + 1)
    enough = ends[reached >= precision]
    if not len(enough):
        return float(reached.max())
    last = enough[-1]
    # half-way to the next image: no rounding in the last digit puts one on the other side
    below = sorted_[last + 1] if last + 1 < len(sorted_) else 0.0
    return Choice(float(sorted_[last] + below) / 2, int(last) + 1, int(correct[last]), len(sorted_))
