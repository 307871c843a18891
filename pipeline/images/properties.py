"""What can be measured of a picture as a whole: how bright, contrasty, sharp and colourful it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 128  # pixels: pictures are compared at about this size, whatever their own
SAMPLE = 64
LEVELS_OF_NOISE = 4  # of 255: what JPEG leaves of a single colour
TINT = 16  # of 255: how far the channels of a coloured pixel lie apart, at least
COLORED = 0.001  # fraction of coloured pixels that makes a picture one in colour
LEVELS = np.arange(256)


class Properties(NamedTuple):
    """Of the luminance, as fractions of its range."""

    brightness: float  # mean
    contrast: float  # standard deviation
    sharpness: float  # standard deviation of the Laplacian
    color: bool
    blank: bool  # one colour all over


def reduced(image: Image.Image) -> Image.Image:
    """The luminance of an RGB picture, averaged over blocks until its longer side has SIDE to 2·SIDE pixels."""
    return image.convert("L").reduce(max(1, max(image.size) // SIDE))


def measure(grey: Image.Image, image: Image.Image) -> Properties:
    """Measure an RGB picture, whose luminance has been `reduced`.

    Sharpness after J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000: blur removes
    what the Laplacian shows. Colour is looked for in SAMPLE × SAMPLE pixels.
    """
    levels = np.array(grey.histogram())
    pixels = levels.sum()
    mean = levels @ LEVELS / pixels
    contrast = np.sqrt(max(0.0, levels @ LEVELS**2 / pixels - mean**2))
    red, green, blue = np.asarray(image.resize((SAMPLE, SAMPLE), Image.Resampling.NEAREST)).reshape(-1, 3).T
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    ranges = (np.ptp(np.flatnonzero(levels)), np.ptp(spread))
    return Properties(
        brightness=round(float(mean / 255), 5),
        contrast=round(float(contrast / 255), 5),
        sharpness=round(float(laplacian(np.asarray(grey)).std() / 255), 5) if min(grey.size) > 2 else 0.0,
        color=bool(np.count_nonzero(spread > TINT) > COLORED * len(spread)),
        blank=bool(max(ranges) <= LEVELS_OF_NOISE),
    )


def laplacian(levels: np.ndarray) -> np.ndarray:
    """Differences of (H, W) uint8 from the four neighbours, (H − 2, W − 2) int16: without the border."""
    levels = levels.astype(np.int16)
    return levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * levels[1:-1, 1:-1]
