"""Figures of results: a confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.grid import new_figure, save, short
from pipeline.system.console import printable

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHOWN = 40  # classes of a confusion matrix: more can't be read, and take memory and minutes to draw


def draw_confusion_matrix(path: Path, counts: csr_array, classes: list[str], split: str) -> None:
    """Of counts (classes, classes), rows the true classes and columns the predicted ones; shades are shares of a row.

    Of more than `SHOWN` classes, those are drawn that are confused most, by all images that are taken for another
    class, or another class's for them.
    """
    shown, title = np.arange(len(classes)), f"{split} images"
    if len(classes) > SHOWN:
        confused = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-confused, kind="stable")[:SHOWN])
        title += f", the {SHOWN} of {len(classes):,} classes that are confused most"
    part = counts[shown][:, shown].toarray()
    shares = part / np.maximum(counts.sum(axis=1)[shown, None], 1)
    names = [short(printable(classes[number])) for number in shown.tolist()]

    side = max(4.0, 0.5 * len(shown) + 2)
    figure = new_figure(side, side, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize="x-large")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(part):
            axes.text(
                column, row, count, ha="center", va="center", fontsize=9,
                color="white" if shares[row, column] > 0.5 else "black",
            )  # fmt: skip
    save(figure, path)
