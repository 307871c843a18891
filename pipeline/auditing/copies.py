"""Near copies that hashes miss: neighbors by their features, of which the pixels agree too.

Features alone propose far too many: two white horses from the left are neighbors. Pixels alone would have to compare
every image with every other. So of each image only its neighbors are compared, as small gray pictures: moved and
mirrored by their correlation, then aligned as `check` does, with a wider limit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.auditing.neighbors import Neighbors
from pipeline.checking import alignment, hashing

SIMILAR = 0.8  # cosine of the features of neighbors that are compared
CORRELATED = 0.8  # correlation of the pixels of near copies, and …
DIFFERENT = 2.5  # … the largest difference of their detail, in its standard deviations; `check` allows 1
SHIFT = 3  # how far pictures are moved, in pixels of hashing.SIDE
BLOCK = 1024  # pairs that are compared at once


class Pairs(NamedTuple):
    """Near copies, the most alike first."""

    positions: NDArray[np.int64]  # (M, 2), the lower one first
    similarity: NDArray[np.float32]  # (M,), cosine of their features
    difference: NDArray[np.float32]  # (M,), largest, of their pixels


def find(images: NDArray[np.uint8], rows: NDArray[np.int64], nearest: Neighbors, groups: NDArray[np.int64]) -> Pairs:
    """Pairs of near copies that are in different `groups` (N,), among N images: those in `rows` (N,) of `images`."""
    first, rank = np.nonzero(nearest.similarity >= SIMILAR)
    pairs = np.sort(np.stack([first, nearest.positions[first, rank]], 1), axis=1)
    pairs, kept = np.unique(pairs, axis=0, return_index=True)  # two images may be neighbors of each other
    similarity = nearest.similarity[first, rank][kept]
    unknown = groups[pairs[:, 0]] != groups[pairs[:, 1]]
    pairs, similarity = pairs[unknown], similarity[unknown]

    wanted, places = np.unique(pairs, return_inverse=True)
    pictures = np.zeros((len(wanted), hashing.SIDE, hashing.SIDE), np.uint8)
    for number, row in enumerate(rows[wanted]):
        pictures[number] = picture(images[row])
    places = places.reshape(-1, 2)
    difference = np.full(len(pairs), np.inf, np.float32)
    for start in range(0, len(pairs), BLOCK):
        one, other = pictures[places[start : start + BLOCK].T]
        alike = np.flatnonzero(correlate(one.astype(np.float32), other.astype(np.float32)) >= CORRELATED)
        difference[start + alike] = differ(one[alike], other[alike])
    alike = np.flatnonzero(difference <= DIFFERENT)
    alike = alike[np.argsort(difference[alike], kind="stable")]
    return Pairs(pairs[alike], similarity[alike], difference[alike])


def picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The fingerprint of an image (H, W, C) as `check` makes it, of its luminance."""
    gray = Image.fromarray(image).convert("L") if image.shape[2] == 3 else image[:, :, 0]
    return hashing.fingerprint(np.asarray(gray, np.float32))


def differ(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.floating]:
    """The difference (B,) of pictures where they agree best: one is mirrored or not, and cut at its sides or not."""
    best = np.full(len(one), np.inf)
    for turned in (other, other[:, :, ::-1]):
        for window in (0, 5, 10, 15):  # of alignment.INTERVALS, the same in both directions
            for pair in ((one, turned), (turned, one)):
                best = np.minimum(best, alignment.differences(*pair, np.full(len(one), window)))
    return best


def correlate(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest correlation (B,) of pictures (B, SIDE, SIDE) of which the other is moved, and mirrored or not."""
    shifts = range(-SHIFT, SHIFT + 1)
    best = np.full(len(one), -1, np.float32)
    for turned in (other, other[:, :, ::-1]):
        for down in shifts:
            for right in shifts:
                seen, there = one[:, cut(down), cut(right)], turned[:, cut(-down), cut(-right)]
                np.maximum(best, correlation(seen, there), out=best)
    return best


def cut(shift: int) -> slice:
    return slice(max(0, shift), hashing.SIDE + min(0, shift))


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pearson's correlation (B,) of pictures (B, H, W)."""
    one, other = (pixels - pixels.mean((1, 2), keepdims=True) for pixels in (one, other))
    product = np.einsum("bhw,bhw->b", one, other)
    norms = np.einsum("bhw,bhw->b", one, one) * np.einsum("bhw,bhw->b", other, other)
    return product / np.sqrt(norms + 1e-6)
