"""Measure a whole picture: brightness, contrast, sharpness, and whether it has color."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # pixels; pictures of all sizes are measured at about this size, so that they can be compared
SAMPLE = 64  # pixels a side in which color is looked for
LEVELS_OF_NOISE = 4  # of 255; JPEG compression varies a single color by this much
TINT = 16  # of 255; in a colored pixel, channels differ by more than this
COLORED = 0.001  # a picture has color if more than this fraction of its pixels is colored
# Weights of red, green and blue in the luminance (ITU-R BT.601), times 256: sums of whole numbers are exact in float32
LUMINANCE = np.array([77, 150, 29], np.float32)


class Properties(NamedTuple):
    """Brightness, contrast and sharpness are of the luminance, as fractions of its range."""

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
    """The weights of luminance for the channels of `pixels` pixels side by side, (3 · pixels,) float32."""
    return np.tile(LUMINANCE, pixels)


def measure(gray: NDArray[np.float32], pixels: NDArray[np.uint8]) -> Properties:
    """Measure a picture: `pixels` (H, W, 3) uint8, and `gray` (h, w) float32, which `reduced` gives for them.

    Sharpness after J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000: the Laplacian
    varies less in a blurred picture. Color is looked for in at most SAMPLE × SAMPLE pixels.
    """
    down, across = (-(-side // SAMPLE) for side in pixels.shape[:2])
    red, green, blue = np.ascontiguousarray(pixels[::down, ::across].transpose(2, 0, 1))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    mean, contrast = moments(gray)
    narrow = contrast <= LEVELS_OF_NOISE  # cheap to test, and rarely true: finding the ranges below takes longer
    return Properties(
        brightness=round(mean / 255, 5),
        contrast=round(contrast / 255, 5),
        sharpness=round(moments(laplacian(gray))[1] / 255, 5) if min(gray.shape) > 2 else 0.0,
        color=bool(np.count_nonzero(spread > TINT) > COLORED * spread.size),
        blank=bool(narrow and np.ptp(gray) <= LEVELS_OF_NOISE and np.ptp(spread) <= LEVELS_OF_NOISE),
    )


def moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation, in half the time of numpy.std."""
    mean = values.mean()
    centered = (values - mean).ravel()
    return float(mean), float(np.sqrt(centered @ centered / centered.size))


def laplacian(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The Laplacian of (H, W), the four neighbors minus 4 times the pixel: (H − 2, W − 2), without the border."""
    sums = levels[1:-1, 1:-1] * -4
    for neighbor in (levels[:-2, 1:-1], levels[2:, 1:-1], levels[1:-1, :-2], levels[1:-1, 2:]):
        sums += neighbor
    return sums
