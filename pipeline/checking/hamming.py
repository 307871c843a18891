"""Radius search among perceptual hashes, in all eight orientations at once.

Multi-index hashing (M. Norouzi et al., Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014): the bits of
a hash are divided into three bands. If two hashes differ in few bits, one of their bands differs in at most a third of
these. In the table of a band, a hash is stored under the smallest of the values that the band takes in the eight
orientations, so that one look-up finds it in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.hashing import BANDS, FREQUENCIES

SPARSE = 6  # a table has about 2**SPARSE places per hash; bits beyond that are compared after the look-up
AT_ONCE = 1 << 17  # candidates compared at once, to bound the memory


class Matches(NamedTuple):
    """Pairs of hashes that are near each other, as arrays (M,)."""

    query: NDArray[np.int64]  # number of the hash that was looked for
    entry: NDArray[np.int32]  # number of the hash that was found
    distance: NDArray[np.uint8]  # differing bits


class Index:
    """Hashes to search among: `hashes` (8, N) uint64 as of `hashing.orientations`, and the radius in bits."""

    def __init__(self, hashes: NDArray[np.uint64], radius: int) -> None:
        allowed = [(radius + 1 + band) // len(BANDS) - 1 for band in range(len(BANDS))]  # differing bits in each band
        self.radius = radius
        self.bands = [Band(band, bits, hashes) for band, bits in enumerate(allowed) if bits >= 0]

    def within(self, hashes: NDArray[np.uint64]) -> Iterator[Matches]:
        """Find the hashes at most the radius from each of `hashes` (8, Q) in any orientation.

        Yields at most AT_ONCE matches at a time. The same pair may come several times.
        """
        for band in self.bands:
            yield from band.within(hashes, self.radius)


class Band:
    """The table of one band: which hashes have which bits there.

    `number` is that of the band, `differing` is the number of bits that may differ in it, `hashes` (8, N) as of Index.
    """

    def __init__(self, number: int, differing: int, hashes: NDArray[np.uint64]) -> None:
        self.bits = BANDS[number]
        self.shift = np.uint64(64 - sum(BANDS[: number + 1]))
        self.masks = self.changes(sum(BANDS[:number]), differing)
        values = self.values(hashes)
        smallest = values.min(0)
        orientation, entry = np.nonzero(values == smallest)  # several where a band is symmetric
        order = np.argsort(smallest[entry], kind="stable")
        orientation, entry = orientation[order], entry[order]
        self.entries = entry.astype(np.int32)
        self.hashes = hashes[orientation, entry]
        self.unused = max(0, self.bits - hashes.shape[1].bit_length() - SPARSE)
        counts = np.bincount(smallest[entry] >> self.unused, minlength=1 << (self.bits - self.unused))
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def values(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The bits of this band in each hash."""
        return ((hashes >> self.shift) & np.uint64((1 << self.bits) - 1)).astype(np.uint32)

    def changes(self, first: int, most: int) -> NDArray[np.uint32]:
        """(8, P) uint32: for each of the P ways to change at most `most` bits, the bits to invert in each orientation.

        `first` is the position of the band's first bit in a hash.
        """
        place = {tuple(frequency): 1 << (self.bits - 1 - n) for n, frequency in enumerate(self.frequencies(first))}
        upright = list(place.values())
        transposed = [place[v, u] for u, v in place]
        ways = [way for count in range(most + 1) for way in combinations(range(self.bits), count)]
        masks = [[sum(bits[bit] for bit in way) for way in ways] for bits in (upright, transposed)]
        return np.repeat(np.array(masks, np.uint32), 4, axis=0)

    def frequencies(self, first: int) -> list[list[int]]:
        return FREQUENCIES[first : first + self.bits].tolist()

    def within(self, hashes: NDArray[np.uint64], radius: int) -> Iterator[Matches]:
        """Like `Index.within`, for the hashes whose values in this band differ in few enough bits."""
        best = np.full((hashes.shape[1], self.masks.shape[1]), np.iinfo(np.uint32).max, np.uint32)
        for orientation, (values, masks) in enumerate(zip(self.values(hashes), self.masks, strict=True)):
            np.minimum(best, (values[:, None] ^ masks) << 3 | np.uint32(orientation), out=best)
        flat = best.ravel()
        place = flat >> (3 + self.unused)
        starts = self.starts[place]
        counts = self.starts[place + 1] - starts
        found = np.flatnonzero(counts)
        starts, counts = starts[found], counts[found]
        query = found // best.shape[1]
        turned = hashes[flat[found] & 7, query]
        ends = np.cumsum(counts, dtype=np.int64)
        first = 0
        while first < len(found):
            before = ends[first] - counts[first]
            last = max(first + 1, int(np.searchsorted(ends, before + AT_ONCE, side="right")))
            part = slice(first, last)
            stops = (ends[part] - before).astype(np.int32)
            candidate = np.arange(stops[-1], dtype=np.int32)
            candidate += np.repeat(starts[part] - (stops - counts[part]), counts[part])
            distance = np.bitwise_count(np.repeat(turned[part], counts[part]) ^ self.hashes[candidate])
            near = np.flatnonzero(distance <= radius)
            lookup = first + np.searchsorted(stops, near, side="right")
            yield Matches(query[lookup], self.entries[candidate[near]], distance[near])
            first = last
