"""The nearest neighbors of images by cosine similarity, found block by block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.system.console import progress
from pipeline.system.workers.pool import cores

COUNT = 10  # neighbors by which an image is judged
FAR = 3.0  # robust standard deviations above the median: images that are an outlier
TO_SIGMA = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation
ROWS, COLUMNS = 512, 2048  # of the similarities that a thread holds at a time: so few stay in its caches


class Neighbors(NamedTuple):
    """The K nearest of each of N images, the nearest first."""

    positions: NDArray[np.int64]  # (N, K)
    similarity: NDArray[np.float32]  # (N, K), cosines


def nearest(points: NDArray[np.float32], count: int) -> Neighbors:
    """The `count` nearest others of each point (N, D), or all others if there are fewer. Memory is flat but for both.

    J. Johnson, M. Douze and H. Jégou, Billion-scale similarity search with GPUs, 2017, calls this exhaustive search.
    """
    directions = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    count = min(count, len(points) - 1)

    def of_block(start: int) -> Neighbors:
        rows = np.arange(start, min(start + ROWS, len(points)))
        positions = np.empty((len(rows), 0), np.int64)
        similarity = np.empty((len(rows), 0), np.float32)
        for begin in range(0, len(points), COLUMNS):
            columns = np.arange(begin, min(begin + COLUMNS, len(points)))
            found = directions[rows] @ directions[columns].T
            found[rows[:, None] == columns] = -np.inf
            best = largest(found, count)
            positions = np.hstack([positions, columns[best]])
            similarity = np.hstack([similarity, np.take_along_axis(found, best, 1)])
            best = largest(similarity, count)
            positions = np.take_along_axis(positions, best, 1)
            similarity = np.take_along_axis(similarity, best, 1)
        return Neighbors(positions, similarity)

    starts = range(0, len(points), ROWS)
    with ThreadPoolExecutor(cores()) as pool:  # numpy lets other threads run
        found = list(progress(pool.map(of_block, starts), total=len(starts), unit=" blocks"))
    return Neighbors(*map(np.concatenate, zip(*found, strict=True)))


def largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The columns (R, count) of the largest values in each row of (R, C), the largest first; all of fewer columns."""
    if values.shape[1] > count:
        columns = np.argpartition(-values, count, axis=1)[:, :count]
    else:
        columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


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
