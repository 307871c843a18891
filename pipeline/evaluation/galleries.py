"""Grids of images with what the model says of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import grid
from pipeline.evaluation.grid import short

if TYPE_CHECKING:
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.metrics import SplitResults
    from pipeline.evaluation.predictions import Predictions

SHOWN = 24  # images of a grid


def draw_samples(path: Path, packed: PackedDataset, results: SplitResults) -> None:
    """Evenly spaced images of one split."""
    count = len(results.predictions.rows)
    chosen = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
    grid.draw_grid(path, tiles(packed, results.predictions, chosen))


def draw_worst(path: Path, packed: PackedDataset, results: SplitResults) -> None:
    """The images that are classified wrong, those with the highest probability first."""
    given = results.predictions
    wrong = np.flatnonzero(~given.correct)
    chosen = wrong[np.argsort(-given.probability[wrong], kind="stable")[:SHOWN]]
    heading = f"{results.split}: the most confident of {len(wrong):,} wrong images"
    grid.draw_grid(path, tiles(packed, given, chosen, paths=True), heading)


def draw_uncertain(path: Path, packed: PackedDataset, results: SplitResults) -> None:
    """The images whose predicted class has the lowest probability."""
    given = results.predictions
    chosen = np.argsort(given.probability, kind="stable")[:SHOWN]
    heading = f"{results.split}: the least certain of {len(given.rows):,} images"
    grid.draw_grid(path, tiles(packed, given, chosen, paths=True), heading)


def tiles(packed: PackedDataset, given: Predictions, chosen: NDArray[np.int64], paths: bool = False) -> list[grid.Tile]:
    """Titled green where the prediction is right and red where it is wrong."""
    found = []
    for position in chosen:
        row, right = given.rows[position], given.correct[position]
        predicted, label = (short(packed.classes[of[position]], 18) for of in (given.predicted, given.labels))
        title = f"{predicted} {given.probability[position]:.0%}" + ("" if right else f"\nis {label}")
        if paths:
            title = f"{short(packed.table.loc[row, 'path'], 26)}\n{title}"
        found.append(grid.Tile(packed.images[row], title, "green" if right else "red"))
    return found
