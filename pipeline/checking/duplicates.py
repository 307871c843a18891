"""Find near duplicates: one picture that was resized, compressed again, retouched, turned, flipped or cropped.

For each picture, 16 hashes are computed: of the whole, and with one or more sides cut a little. Where the hash of
another picture, in any orientation, is near one of these, the two are aligned and compared in detail.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.checking import alignment
from pipeline.checking.hamming import Index
from pipeline.checking.hashing import COSINES, FREQUENCIES, orientations, spectra
from pipeline.system.workers.pool import cores

if TYPE_CHECKING:
    from pipeline.config.datasets import NearDuplicates

BLOCK = 256  # pictures that are searched for at once
AT_ONCE = 1024  # pairs that are compared at once
NEAREST = 64  # how many pictures with near hashes each picture is compared with
LIKELY = 0.98  # pairs are compared in detail if the correlation of their low frequencies is above this

WINDOWS = COSINES.astype(np.float32) @ alignment.sampled(alignment.INTERVALS)  # (4, K, SIDE)
# Each window and those that differ in one cut: a picture cut by less is nearly a mixture of two of them
ADJACENT = np.array([[window ^ side for side in (0, 1, 2, 4, 8)] for window in range(16)])
WEIGHTS = np.sqrt((FREQUENCIES**2).sum(1)).astype(np.float32)  # high ones weigh more: pictures hold less of them


def near_pairs(fingerprints: NDArray[np.uint8], params: NearDuplicates) -> NDArray[np.int64]:
    """Pairs (M, 2) int64 of positions of pictures that are nearly equal, the lower position first.

    `fingerprints` (N, SIDE, SIDE) uint8 may be a memory map: it is read in blocks. Pictures without detail are in no
    pair. Where many pictures resemble each other, each is compared with the NEAREST only, and of those with equal
    hashes only the first NEAREST are found. This bounds the time, and the pairs still connect all of them.
    """
    blocks = [np.arange(start, min(start + BLOCK, len(fingerprints))) for start in range(0, len(fingerprints), BLOCK)]
    if not blocks:
        return np.zeros((0, 2), np.int64)
    with ThreadPoolExecutor(cores()) as pool:  # numpy lets other threads run
        hashes, telling = (
            np.concatenate(parts, axis=-1)
            for parts in zip(*pool.map(lambda block: describe(fingerprints[block]), blocks), strict=True)
        )
        found = np.flatnonzero(telling)
        found = found[rank_among_equal(hashes[:, found].min(0)) < NEAREST]
        search = Search(fingerprints, hashes[0], found, Index(hashes[:, found], params.distance), params.difference)
        del hashes
        pairs = list(pool.map(search.pairs, (block[telling[block]] for block in blocks)))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def pair_components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """(count,) int32: the number of the connected component of each position, given pairs (M, 2) of positions."""
    if not len(pairs):  # importing scipy would take longer than the rest
        return np.arange(count, dtype=np.int32)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(count, count))
    numbers: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return numbers


def describe(fingerprints: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """For pictures (B, SIDE, SIDE): hashes (8, B) in all orientations, and which have any detail, (B,) bool."""
    deviation = alignment.detail(fingerprints.astype(np.float32)).std((1, 2))
    return orientations(spectra(fingerprints)), deviation > alignment.NOISE


def rank_among_equal(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """(N,) int64: how many equal values come before each of the values (N,)."""
    order = np.argsort(values, kind="stable")
    places = np.arange(len(values))
    begins = np.where(np.diff(values[order], prepend=~values[order[:1]]) != 0, places, 0)
    rank = np.empty_like(places)
    rank[order] = places - np.maximum.accumulate(begins)
    return rank


class Search:
    """Searches for pictures that are nearly equal to others.

    `fingerprints` (N, SIDE, SIDE) and `hashes` (N,) are those of all pictures. `index` holds the hashes of those at
    the positions `found` (F,). `difference` is the largest difference of two that are nearly equal.
    """

    def __init__(
        self,
        fingerprints: NDArray[np.uint8],
        hashes: NDArray[np.uint64],
        found: NDArray[np.int64],
        index: Index,
        difference: float,
    ) -> None:
        self.fingerprints = fingerprints
        self.hashes = hashes
        self.found = found
        self.index = index
        self.difference = difference

    def pairs(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pairs (M, 2) of one of the `positions` (B,) and the position of another picture that is nearly equal."""
        pictures = self.fingerprints[positions]
        windows = window_spectra(pictures)
        hashes = orientations(windows)
        pairs = [np.zeros((0, 2), np.int64)]
        near, others, seen_in = self.nearest(hashes, positions)
        for start in range(0, len(near), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            here, there, window = near[part], others[part], seen_in[part]
            turns = np.bitwise_count(hashes[:, window, here] ^ self.hashes[there]).argmin(0)
            wanted = alignment.turned_back(self.fingerprints[there], turns)
            likely = resemblance(windows[ADJACENT[window], here[:, None]], spectra(wanted)) > LIKELY
            here, there, window, wanted = here[likely], there[likely], window[likely], wanted[likely]
            equal = alignment.differences(pictures[here], wanted, window) <= self.difference
            pairs.append(np.stack([positions[here[equal]], there[equal]], axis=1))
        return np.concatenate(pairs)

    def nearest(
        self, hashes: NDArray[np.uint64], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The NEAREST pictures to each of a block, by their hashes.

        `hashes` (8, 16, B) are those of a block in all orientations and windows, `positions` (B,) its positions.
        Returns three arrays (M,): the number of a picture in the block, the position of one that is near, the window
        in which it is.
        """
        codes = [np.zeros(0, np.int64)]
        for query, entry, distance in self.index.within(hashes.reshape(8, -1)):
            window, here = np.divmod(query, len(positions))
            there = self.found[entry]
            other = np.flatnonzero((window > 0) & (there != positions[here]) | (there > positions[here]))
            codes.append(
                (here[other] << 32 | there[other]) << 8 | distance[other].astype(np.int64) << 4 | window[other]
            )
        best = np.sort(np.concatenate(codes))
        best = best[np.diff(best >> 8, prepend=-1) != 0]  # the nearest match of each pair
        here, there, distance, window = best >> 40, best >> 8 & 0xFFFFFFFF, best >> 4 & 15, best & 15
        order = np.lexsort((there, distance, here))
        order = order[rank_among_equal(here[order]) < NEAREST]
        return here[order], there[order], window[order]


def window_spectra(fingerprints: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The spectra (16, B, K, K) of all windows of fingerprints (B, SIDE, SIDE): number 4 · vertical + horizontal."""
    count, side = WINDOWS.shape[:2]
    rows = WINDOWS.reshape(count * side, -1)
    every = rows @ fingerprints.astype(np.float32) @ rows.T
    return every.reshape(-1, count, side, count, side).transpose(1, 3, 0, 2, 4).reshape(count**2, -1, side, side)


def resemblance(mixed: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlation (M,) of each spectrum in `wanted` (M, K, K) with the weighted sum of P others that is nearest to it.

    The others are `mixed` (M, P, K, K).
    """
    rows, goal = (values[..., *FREQUENCIES.T] * WEIGHTS for values in (mixed, wanted))
    squares = (rows @ rows.swapaxes(1, 2)).astype(np.float64)
    squares += 1e-6 * np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(squares.shape[1])
    products = (rows @ goal[:, :, None]).astype(np.float64)
    explained = (products * np.linalg.solve(squares, products)).sum((1, 2))
    return np.sqrt(np.clip(explained / (goal.astype(np.float64) ** 2).sum(1), 0, 1))
