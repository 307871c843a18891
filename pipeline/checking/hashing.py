"""Hashes of pictures: those with equal pixels have the same `pixel_hash`, similar ones nearly the same `phash`.

Both are the same on every machine, since splits depend on them: the matrix products behind `phash` are of numbers with
few binary digits, whose sums need no rounding in whatever order a processor adds them up.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

Floats = TypeVar("Floats", np.float32, np.float64)

SIDE = 32  # of a fingerprint, in pixels
BANDS = (21, 21, 22)  # bits of a hash that are looked up together: see hamming.py


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """The hash of a picture (H, W, 3) uint8, size and pixels: XXH3 with 128 bits, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(pixels.data, seed=pixels.shape[1])


def fingerprint(gray: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture scaled down to (SIDE, SIDE) uint8, whatever its shape, from its luminance (h, w) float32, 0 to 255."""
    rows, columns = resampling(gray.shape[0]), resampling(gray.shape[1])
    down = rows.astype(np.float32) @ rounded(gray, 3)  # 8 + 3 + 13 digits: float32 holds 24
    return np.rint(down.astype(np.float64) @ columns.T).astype(np.uint8)


def rounded(values: NDArray[Floats], digits: int) -> NDArray[Floats]:
    """Values to so many binary digits after the point."""
    scaled = values * values.dtype.type(2**digits)
    return np.rint(scaled, out=scaled) / values.dtype.type(2**digits)


@cache  # for the at most 256 sizes that `properties.reduced` gives
def resampling(side: int) -> NDArray[np.float64]:
    """Matrix (SIDE, side) float64 that scales one side, bilinear; where it shrinks, over all pixels (antialiased)."""
    scale = side / SIDE
    distance = np.abs(np.subtract.outer((np.arange(SIDE) + 0.5) * scale, np.arange(side) + 0.5))
    weights = np.maximum(0, 1 - distance / max(1, scale))
    return rounded(weights / weights.sum(1, keepdims=True), 13)


def phash(fingerprint: NDArray[np.uint8]) -> str:
    """Perceptual hash, 16 hexadecimal digits: the signs of 64 low cosine frequencies of a fingerprint.

    After C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1. There,
    frequencies are compared with their median, here with zero: so turning a picture only moves and inverts bits.
    """
    return f"{int(signs(spectra(fingerprint))):016x}"


def spectra(fingerprints: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The lowest cosine frequencies (…, K, K) float32, vertical before horizontal, of fingerprints (…, SIDE, SIDE)."""
    return (COSINES @ fingerprints.astype(np.float64) @ COSINES.T).astype(np.float32)


def signs(spectra: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hashes (…) uint64 of spectra (…, K, K): a bit for each of FREQUENCIES, the first one highest."""
    bits = np.ascontiguousarray(spectra[..., *FREQUENCIES.T] > 0)
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def orientations(spectra: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hashes (8, …) uint64 of pictures in all orientations, from their spectra (…, K, K).

    Orientation 4·t + 2·v + h: transposed if t, then flipped top to bottom if v, then left to right if h.
    """
    hashes = np.stack([signs(spectra), signs(spectra.swapaxes(-1, -2))])
    flips = FLIPS.reshape(4, *[1] * (hashes.ndim - 1))
    return (hashes[:, None] ^ flips).reshape(8, *hashes.shape[1:])


def frequencies() -> NDArray[np.int64]:
    """(64, 2) int64: the lowest pairs of a vertical and a horizontal frequency, without (0, 0).

    They are ordered by bands. A frequency and its transpose are in the same band.
    """
    low = sorted((u * u + v * v, u, v) for u in range(9) for v in range(u, 9) if 0 < u * u + v * v < 73)
    pairs = [((u, v), (v, u)) for _, u, v in low if u < v]
    alone = [(u, v) for _, u, v in low if u == v]
    bands = [[frequency for pair in pairs[band::3] for frequency in pair] for band in range(3)]
    return np.array([*bands[0], alone[0], *bands[1], alone[1], *bands[2], *alone[2:]])


def cosines(side: int, count: int) -> NDArray[np.float64]:
    """The first rows of the DCT-II matrix, (count, side) float64. All but the first have length 1."""
    k, n = np.mgrid[:count, :side]
    return np.sqrt(2 / side) * np.cos(np.pi * (2 * n + 1) * k / (2 * side))


FREQUENCIES = frequencies()
COSINES = rounded(cosines(SIDE, FREQUENCIES.max() + 1), 12)
# A flip changes the sign of the odd frequencies in its direction, which inverts their bits of the hash
ODD_V, ODD_H = (np.packbits(odd).view(">u8").astype(np.uint64)[0] for odd in FREQUENCIES.T % 2 == 1)
FLIPS = np.array([0, ODD_H, ODD_V, ODD_V ^ ODD_H], np.uint64)
