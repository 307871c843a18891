"""The numbers of pandas' `describe`, without importing pandas, which takes a second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAMES = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")


def describe(values: NDArray[np.floating]) -> dict[str, float]:
    """The statistics in NAMES of an array (N,) without its NaNs; NaN where there are too few values.

    As in pandas, `std` is the sample standard deviation, and quartiles are interpolated.
    """
    values = values[~np.isnan(values)].astype(np.float64)
    quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)) if len(values) else np.full(5, np.nan)
    mean = values.mean() if len(values) else np.nan
    std = values.std(ddof=1) if len(values) > 1 else np.nan
    return dict(zip(NAMES, map(float, (len(values), mean, std, *quartiles)), strict=True))
