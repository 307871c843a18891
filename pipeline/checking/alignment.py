"""Move and scale one small picture onto another, and measure how much they differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.hashing import SIDE

CUT = 0.045  # fraction of a side that a window lacks at one end; the fit finds cuts from 0 to a little more
STEPS = 2  # iterations of the fit
LOWEST, HIGHEST = np.array([[-0.02, 0.91], [0.09, 1.02]], np.float32)  # limits of (first edge, last edge)
NOISE = 1.0  # gray levels; a picture shows nothing if the standard deviation of its detail is not above this

# The part of each side that a window keeps: all of it, or without its beginning, its end, or both
INTERVALS = np.array([(0, 1), (CUT, 1), (0, 1 - CUT), (CUT, 1 - CUT)], np.float32)
FINENESS = 64  # places to sample between two pixels
CENTERS = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE


def sampled(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices (M, SIDE, SIDE) float32 that stretch what is between two edges, (M, 2) in [0, 1], to a whole side."""
    begin, end = edges[:, :1], edges[:, 1:]
    places = (begin + CENTERS * (end - begin)) * SIDE - 0.5
    return BETWEEN[np.rint(places.clip(0, SIDE - 1) * FINENESS).astype(np.int32)]


def differences(one: NDArray[np.uint8], other: NDArray[np.uint8], windows: NDArray[np.int64]) -> NDArray[np.floating]:
    """The largest difference between two pictures at any place, (M,), in standard deviations of their detail.

    `one` and `other` (M, SIDE, SIDE) are fingerprints. `windows` (M,) says which part of `one` the other shows,
    roughly: 4 · vertical + horizontal, both positions in INTERVALS. From there, the edges of the part are fitted by
    least squares, together with brightness and contrast (B. Lucas and T. Kanade, An Iterative Image Registration
    Technique, 1981).
    """
    source, target = one.astype(np.float32), other.astype(np.float32)
    vertical, horizontal = INTERVALS[windows // 4], INTERVALS[windows % 4]
    for _ in range(STEPS):
        seen: NDArray[np.floating] = sampled(vertical) @ source @ sampled(horizontal).swapaxes(1, 2)
        vertical, horizontal = fitted(seen, target, vertical, horizontal)
    seen = standard(detail(sampled(vertical) @ source @ sampled(horizontal).swapaxes(1, 2)))
    wanted = standard(detail(target))
    correlation = (seen * wanted).mean((1, 2), keepdims=True)
    return np.abs(correlation * seen - wanted).max((1, 2))


def fitted(
    seen: NDArray[np.floating],
    wanted: NDArray[np.floating],
    vertical: NDArray[np.float32],
    horizontal: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One iteration of the fit: vertical and horizontal edges (M, 2) that bring `seen` nearer to `wanted`.

    Both are pictures (M, SIDE, SIDE); the edges that are given are those of `seen`.
    """
    down, right = np.gradient(seen, 1 / SIDE, axis=(1, 2))
    before, after = 1 - CENTERS, CENTERS  # how far a pixel moves with the first and with the last edge
    terms = (np.ones_like(seen), seen, down * before[:, None], down * after[:, None], right * before, right * after)
    rows = np.stack(terms, 1).reshape(len(seen), len(terms), SIDE**2)
    squares = (rows @ rows.swapaxes(1, 2)).astype(np.float64) + 1e-3 * np.eye(len(terms))
    products = (rows @ wanted.reshape(len(seen), SIDE**2, 1)).astype(np.float64)
    solution = np.linalg.solve(squares, products)[..., 0]
    contrast = np.maximum(solution[:, 1:2], 0.1)
    moves = (solution[:, 2:] / contrast).astype(np.float32)
    moved = [
        (edges + move * (edges[:, 1:] - edges[:, :1])).clip(LOWEST, HIGHEST)
        for edges, move in ((vertical, moves[:, :2]), (horizontal, moves[:, 2:]))
    ]
    return moved[0], moved[1]


def turned_back(pictures: NDArray[np.uint8], turns: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Undo the orientation of pictures (M, SIDE, SIDE): `turns` (M,) are numbers as of hashing.orientations."""
    upright = np.empty_like(pictures)
    for turn in np.unique(turns):
        turned = pictures[turns == turn]
        if turn & 1:
            turned = turned[:, :, ::-1]
        if turn & 2:
            turned = turned[:, ::-1]
        upright[turns == turn] = turned.swapaxes(1, 2) if turn & 4 else turned
    return upright


def detail(pictures: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is one to a few pixels wide in fingerprints (…, SIDE, SIDE): the difference of two Gaussian blurs."""
    return FINE @ pictures @ FINE.T - COARSE @ pictures @ COARSE.T


def standard(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Pictures (M, SIDE, SIDE) divided by the root mean square of each."""
    return values / np.sqrt((values**2).mean((1, 2), keepdims=True) + 1e-6)


def cubic(places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights (P, SIDE) by which the pixels of a side are interpolated at places (P,), in pixels.

    R. Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, with a = -1/2.
    """
    x = np.abs(places[:, None] - np.arange(SIDE))
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def blur(deviation: float) -> NDArray[np.float32]:
    """Matrix (SIDE, SIDE) float32 that blurs one side by a Gaussian, as if it were mirrored at its borders."""
    distance = np.subtract.outer(np.arange(SIDE), np.arange(-SIDE, 2 * SIDE))
    weights = np.exp(-0.5 * (distance / deviation) ** 2)
    mirrored = weights[:, SIDE : 2 * SIDE] + weights[:, SIDE - 1 :: -1] + weights[:, : 2 * SIDE - 1 : -1]
    return (mirrored / mirrored.sum(1, keepdims=True)).astype(np.float32)


BETWEEN = cubic(np.arange((SIDE - 1) * FINENESS + 1) / FINENESS)
FINE, COARSE = blur(0.7), blur(2.0)
