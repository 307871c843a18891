"""A hash that similar pictures share."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, KEPT = 32, 8


def dct_rows() -> np.ndarray:
    """The first rows of the orthonormal DCT-II matrix of SIDE points, (KEPT, SIDE) float32."""
    k, n = np.mgrid[:KEPT, :SIDE]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


DCT = dct_rows()


def phash(image: Image.Image) -> str:
    """Perceptual hash, 16 hexadecimal digits: the signs of the lowest 8×8 cosine frequencies against their median.

    C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    low = DCT @ grey @ DCT.T
    bits = low > np.median(low)
    return np.packbits(bits).tobytes().hex()
