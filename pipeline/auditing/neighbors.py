"""The nearest neighbors of images by cosine similarity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.outliers import TO_SIGMA
from pipeline.system.console import progress

COUNT = 10  # neighbors by which an image is judged
FAR = 3.0  # robust standard deviations above the median: images that are an outlier
BLOCK = 4096  # images between two steps of the progress bar


class Neighbors(NamedTuple):
    """The K nearest of each of N images, the nearest first."""

    positions: NDArray[np.int64]  # (N, K)
    similarity: NDArray[np.float32]  # (N, K), cosines


def nearest(points: NDArray[np.float32], count: int) -> Neighbors:
    """The `count` nearest others of each point (N, D), or all others if there are fewer."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    directions = normalize(points)
    count = min(count, len(points) - 1)
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(directions)  # each point finds itself, too
    found = []
    for start in progress(range(0, len(points), BLOCK), unit=" blocks"):
        distance, positions = search.kneighbors(directions[start : start + BLOCK])
        itself = positions == np.arange(start, start + len(positions))[:, None]
        itself[~itself.any(axis=1), -1] = True  # with more than `count` copies, a point may not find itself
        shape = len(positions), count
        similarity = 1 - distance[~itself].reshape(shape) ** 2 / 2  # of vectors of length 1
        found.append(Neighbors(positions[~itself].reshape(shape), similarity.astype(np.float32)))
    return Neighbors(*map(np.concatenate, zip(*found, strict=True)))


def distances(points: NDArray[np.float32], nearest: Neighbors) -> NDArray[np.float32]:
    """The mean Euclidean distance (N,) of points (N, D) to their neighbors.

    By the angle alone, an image that is unlike all others would be near those that are unlike them only a little.
    """
    total = np.zeros(len(points), np.float32)
    for column in nearest.positions.T:
        total += np.linalg.norm(points - points[column], axis=1)
    return total / nearest.positions.shape[1]


def far(distance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of N images are outliers, (N,) bool: those whose mean distance to their neighbors (N,) is far above usual.

    S. Ramaswamy, R. Rastogi and K. Shim, Efficient Algorithms for Mining Outliers from Large Data Sets, 2000.
    """
    median = np.median(distance)
    return distance > median + FAR * TO_SIGMA * np.median(np.abs(distance - median))
