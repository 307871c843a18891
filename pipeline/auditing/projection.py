"""Features of length 1 along their principal components: fewer numbers, in which the rest is found sooner."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 256
BLOCK = 4096  # images that are in memory with all their features


def project(features: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The first COMPONENTS principal components of some rows of `features` (N, F), (rows, at most COMPONENTS) float32.

    `features` may be a memory map: it is read in blocks.
    """
    from scipy.linalg import eigh

    size = features.shape[1]
    total, squares = np.zeros(size), np.zeros((size, size))
    for _, block in blocks(features, rows):
        total += block.sum(0)
        squares += block.T @ block
    mean = total / len(rows)
    first = max(0, size - COMPONENTS)
    _, directions = eigh(squares / len(rows) - np.outer(mean, mean), subset_by_index=[first, size - 1])
    projected = np.empty((len(rows), size - first), np.float32)
    for part, block in blocks(features, rows):
        projected[part] = (block - mean) @ directions
    return projected


def blocks(features: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Parts of `rows` with their features, divided by their length."""
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        block = features[rows[part]].astype(np.float64)
        yield part, block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
