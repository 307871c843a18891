"""Hashes of a picture: equal pixels have the same `pixel_hash`, and similar pictures nearly the same `phash`.

Both are the same on every machine, since splits depend on them: the matrix products behind `phash` are of numbers with
few binary digits, whose sums need no rounding in whatever order a processor adds them up.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import xxhash

SIDE = 32  # of a fingerprint
BANDS = (21, 21, 22)  # bits that are looked up together: see pipeline/checking/hamming.py


def pixel_hash(pixels: np.ndarray) -> str:
    """32 hexadecimal digits that pictures (H, W, 3) uint8 share if they are equal, in size too (XXH3, 128 bits)."""
    return xxhash.xxh3_128_hexdigest(pixels.data, seed=pixels.shape[1])


def fingerprint(gray: np.ndarray) -> np.ndarray:
    """The picture in small: (SIDE, SIDE) uint8, from its luminance (h, w) float32, 0 to 255, whatever its shape."""
    rows, columns = resampling(gray.shape[0]), resampling(gray.shape[1])
    down = rows.astype(np.float32) @ rounded(gray, 3)  # 8 + 3 + 13 digits: float32 holds 24
    return np.rint(down.astype(np.float64) @ columns.T).astype(np.uint8)


def rounded(values: np.ndarray, digits: int) -> np.ndarray:
    """Values to so many binary digits after the point."""
    scaled = values * values.dtype.type(2**digits)
    return np.rint(scaled, out=scaled) / values.dtype.type(2**digits)


@cache  # for the at most 256 sizes that `properties.reduced` gives
def resampling(side: int) -> np.ndarray:
    """Matrix (SIDE, side) float64 that scales one side: bilinear, over all pixels where it shrinks."""
    scale = side / SIDE
    distance = np.abs(np.subtract.outer((np.arange(SIDE) + 0.5) * scale, np.arange(side) + 0.5))
    weights = np.maximum(0, 1 - distance / max(1, scale))
    return rounded(weights / weights.sum(1, keepdims=True), 13)


def phash(fingerprint: np.ndarray) -> str:
    """Perceptual hash, 16 hexadecimal digits: the signs of 64 low cosine frequencies of a fingerprint.

    After C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1, but
    against zero instead of the median: turning a picture then only moves and inverts bits.
    """
    return f"{int(signs(spectra(fingerprint))):016x}"


def spectra(fingerprints: np.ndarray) -> np.ndarray:
    """The lowest cosine frequencies (…, K, K) float32, vertical before horizontal, of fingerprints (…, SIDE, SIDE)."""
    return (COSINES @ fingerprints.astype(np.float64) @ COSINES.T).astype(np.float32)


def signs(spectra: np.ndarray) -> np.ndarray:
    """Hashes (…) uint64 of spectra (…, K, K): a bit for each of FREQUENCIES, the first one highest."""
    bits = np.ascontiguousarray(spectra[..., *FREQUENCIES.T] > 0)
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def orientations(spectra: np.ndarray) -> np.ndarray:
    """Hashes (8, …) of pictures turned in all ways, given their spectra.

    Number 4·t + 2·v + h: transposed if t, then flipped top to bottom if v, then left to right if h.
    """
    hashes = np.stack([signs(spectra), signs(spectra.swapaxes(-1, -2))])
    flips = FLIPS.reshape(4, *[1] * (hashes.ndim - 1))
    return (hashes[:, None] ^ flips).reshape(8, *hashes.shape[1:])


def frequencies() -> np.ndarray:
    """(64, 2): the lowest vertical and horizontal frequencies but (0, 0).

    A frequency and its transpose are in the same band.
    """
    low = sorted((u * u + v * v, u, v) for u in range(9) for v in range(u, 9) if 0 < u * u + v * v < 73)
    pairs = [((u, v), (v, u)) for _, u, v in low if u < v]
    alone = [(u, v) for _, u, v in low if u == v]
    bands = [[frequency for pair in pairs[band::3] for frequency in pair] for band in range(3)]
    return np.array([*bands[0], alone[0], *bands[1], alone[1], *bands[2], *alone[2:]])


def cosines(side: int, count: int) -> np.ndarray:
    """The first rows of the DCT-II matrix, (count, side) float64, each of length 1 but the first."""
    k, n = np.mgrid[:count, :side]
    return np.sqrt(2 / side) * np.cos(np.pi * (2 * n + 1) * k / (2 * side))


FREQUENCIES = frequencies()
COSINES = rounded(cosines(SIDE, FREQUENCIES.max() + 1), 12)
# A flip inverts the odd frequencies across it: none, left to right, top to bottom, both
ODD_V, ODD_H = (np.packbits(odd).view(">u8").astype(np.uint64)[0] for odd in FREQUENCIES.T % 2 == 1)
FLIPS = np.array([0, ODD_H, ODD_V, ODD_V ^ ODD_H], np.uint64)
