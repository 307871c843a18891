"""Find images that differ from the rest of their data set: dark, bright, blurry, oddly sized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.config.datasets import Outliers

# The smallest standard deviation to assume: where nearly all images are alike, small differences are no outliers
LEAST_SPREAD = {"brightness": 0.05, "contrast": 0.02, "sharpness": 0.2, "size": 0.25, "aspect_ratio": 0.1}
TO_SIGMA = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation
LEAST_CONTRAST = 1e-4  # smaller values count as this: their logarithms differ widely


def find(values: Mapping[str, NDArray[np.float32]], limits: Outliers) -> dict[str, NDArray[np.bool_]]:
    """For each issue code, which of N images have it, (N,) bool.

    `values` are arrays (N,): width and height in pixels; brightness, contrast and sharpness in [0, 1]; color 0 or 1;
    NaN for an image to ignore. Sizes, aspect ratios and sharpness are compared by their logarithms.
    """
    width, height = values["width"], values["height"]
    scores = {
        "brightness": robust_scores(values["brightness"], "brightness"),
        "contrast": robust_scores(values["contrast"], "contrast"),
        "sharpness": robust_scores(np.log(np.maximum(values["sharpness"], LEAST_CONTRAST)), "sharpness"),
        "size": robust_scores(np.log(width * height) / 2, "size"),
        "aspect_ratio": robust_scores(np.log(width / height), "aspect_ratio"),
    }
    high = {name: score > limits.of(name) for name, score in scores.items()}
    low = {name: score < -limits.of(name) for name, score in scores.items()}
    return {
        "dark": low["brightness"],
        "bright": high["brightness"],
        "low_contrast": low["contrast"],
        "blurry": low["sharpness"],
        "odd_color": rarer(values["color"], limits.color),
        "odd_size": low["size"] | high["size"],
        "odd_aspect_ratio": low["aspect_ratio"] | high["aspect_ratio"],
    }


def robust_scores(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """How many standard deviations each value (N,) lies above the median. NaN stays NaN.

    The standard deviation is estimated from the median absolute deviation, and is at least LEAST_SPREAD[name].

    B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993.
    """
    if np.isnan(values).all():
        return values
    middle = np.nanmedian(values)
    spread = TO_SIGMA * np.nanmedian(np.abs(values - middle))
    return (values - middle) / max(spread, LEAST_SPREAD[name])


def rarer(values: NDArray[np.float32], most: float) -> NDArray[np.bool_]:
    """Of values 0 and 1 (N,), which ones have the rarer value, if at most the fraction `most` has it; (N,) bool."""
    share = np.nanmean(values) if not np.isnan(values).all() else 0.5
    rare = 1.0 if share <= 0.5 else 0.0
    return (values == rare) & (min(share, 1 - share) <= most)
