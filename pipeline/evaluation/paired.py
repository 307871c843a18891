"""Whether one classifier is better than another, by what both say of the same images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.intervals import NORMAL_95

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT = 0.05  # a difference that chance makes less often than this is called one


class Paired(NamedTuple):
    """How many images both classifiers get right, only the first, only the second, or neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Paired:
        """Count where each is right of the same images, (N,) each."""
        return cls(*(int(which.sum()) for which in (one & other, one & ~other, ~one & other, ~one & ~other)))

    @property
    def images(self) -> int:
        return sum(self)

    @property
    def difference(self) -> float:
        """The accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.images

    def p_value(self) -> float:
        """McNemar's exact test: how often chance alone would divide the images on which they differ as unevenly.

        A two-sided binomial test (McNemar 1947, Psychometrika 12): twice the smaller tail, since both are alike.
        """
        from scipy.special import bdtr  # scipy.stats takes a second more to import

        fewer = min(self.only_first, self.only_second)
        return min(1.0, 2 * float(bdtr(fewer, self.only_first + self.only_second, 0.5)))

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference.

        Wald's with half an image added to each of the four counts (Agresti and Min 2005, Statistics in Medicine 24),
        which holds for few differing images too.
        """
        first, second, count = self.only_first + 0.5, self.only_second + 0.5, self.images + 2
        middle = (second - first) / count
        margin = NORMAL_95 * math.sqrt(first + second - (second - first) ** 2 / count) / count
        return max(-1.0, middle - margin), min(1.0, middle + margin)

    def verdict(self) -> str:
        """What to say of the second: `better`, `worse` or `not distinguishable`."""
        if self.p_value() >= SIGNIFICANT:
            return "not distinguishable"
        return "better" if self.difference > 0 else "worse"


def pair(first: pd.DataFrame, second: pd.DataFrame) -> tuple[Paired, NDArray[np.int64]]:
    """Compare two tables with the columns `label` and `predicted`, whose rows are of the same images.

    Returns the counts, and the rows of the images that only one of them gets right: (D,) int64.
    """
    rights = [(table.label == table.predicted).to_numpy() for table in (first, second)]
    return Paired.of(*rights), np.flatnonzero(rights[0] != rights[1])
