"""Measures of a whole picture: brightness, contrast, sharpness, and whether it has color."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # pixels: pictures are compared at about this size, whatever their own
SAMPLE = 64
LEVELS_OF_NOISE = 4  # of 255: JPEG compression varies a single color by this much
TINT = 16  # of 255: the least difference between the channels of a colored pixel
COLORED = 0.001  # a picture has color if more than this fraction of its pixels has
# Of red, green and blue in the luminance (ITU-R BT.601), in 256ths: float32 adds up whole numbers without rounding
LUMINANCE = np.array([77, 150, 29], np.float32)


class Properties(NamedTuple):
    """Of the luminance, as fractions of its range."""

    brightness: float  # mean
    contrast: float  # standard deviation
    sharpness: float  # standard deviation of the Laplacian
    color: bool
    blank: bool  # one color all over


def reduced(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The luminance (h, w) float32, 0 to 255, of a picture (H, W, 3) uint8, averaged over square blocks.

    The longer side has SIDE to 2·SIDE blocks. Pixels at the right and the bottom that fill no block are ignored.
    """
    height, width, _ = pixels.shape
    side = max(1, max(height, width) // SIDE)
    down, across = min(side, height), min(side, width)
    rows = pixels[: height - height % down].reshape(-1, down, width * 3)
    rows = rows.sum(1, dtype=np.min_scalar_type(255 * down))[:, : (width - width % across) * 3].astype(np.float32)
    weights = luminance(across)
    return (rows.reshape(-1, len(weights)) @ weights).reshape(len(rows), -1) / np.float32(256 * down * across)


@lru_cache
def luminance(pixels: int) -> NDArray[np.float32]:
    """The weights (3 · pixels,) of as many pixels side by side."""
    return np.tile(LUMINANCE, pixels)


def measure(gray: NDArray[np.float32], pixels: NDArray[np.uint8]) -> Properties:
    """Measure a picture (H, W, 3) uint8, whose luminance has been `reduced`.

    Sharpness after J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000: blur removes
    what the Laplacian shows. Color is looked for in at most SAMPLE × SAMPLE pixels.
    """
    down, across = (-(-side // SAMPLE) for side in pixels.shape[:2])
    red, green, blue = np.ascontiguousarray(pixels[::down, ::across].transpose(2, 0, 1))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    mean, contrast = moments(gray)
    narrow = contrast <= LEVELS_OF_NOISE  # a cheap test first: the ranges below take longer
    return Properties(
        brightness=round(mean / 255, 5),
        contrast=round(contrast / 255, 5),
        sharpness=round(moments(laplacian(gray))[1] / 255, 5) if min(gray.shape) > 2 else 0.0,
        color=bool(np.count_nonzero(spread > TINT) > COLORED * spread.size),
        blank=bool(narrow and np.ptp(gray) <= LEVELS_OF_NOISE and np.ptp(spread) <= LEVELS_OF_NOISE),
    )


def moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation. numpy.std takes twice as long."""
    mean = values.mean()
    centered = (values - mean).ravel()
    return float(mean), float(np.sqrt(centered @ centered / centered.size))


def laplacian(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences of (H, W) from the four neighbors, (H − 2, W − 2): without the border."""
    sums = levels[1:-1, 1:-1] * -4
    for neighbor in (levels[:-2, 1:-1], levels[2:, 1:-1], levels[1:-1, :-2], levels[1:-1, 2:]):
        sums += neighbor
    return sums
