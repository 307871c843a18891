"""Likely wrong labels, where no backbone is at hand: validation images of which the best models are sure otherwise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dashboard.standings import Standing, same_images

JUDGES = 5  # experiments, the best of the data set
LEAST = 0.5  # mean probability of the other class
LISTED, PICTURED = 500, 100


class Doubts(NamedTuple):
    """Images whose label is doubted, the most doubted first: columns (N,) each."""

    judges: list[str]  # experiments
    paths: pa.ChunkedArray
    labels: list[str]
    suggested: list[str]
    probability: list[float]  # of the suggested class, the mean over the judges


def find(standings: list[Standing]) -> Doubts | None:
    """None without predictions of validation images. Test images are for the end, and judged by nobody."""
    able = [standing.record for standing in standings if standing.record.validated]
    if not able:
        return None
    judges = [record for record in able if same_images(able[0], record)][:JUDGES]
    tables = [record.validated.table for record in judges if record.validated]
    first = tables[0]
    classes = pc.unique(pa.chunked_array([chunk for table in tables for chunk in table["predicted"].chunks]))
    predicted = np.stack([positions(table["predicted"], classes) for table in tables])  # (judges, images)
    probability = np.stack([table["probability"].to_numpy() for table in tables])
    label = positions(first["label"], classes)

    # the class that most of the probability is for, of those that any judge names
    support = np.stack([np.where(predicted == named, probability, 0).sum(0) for named in predicted]) / len(tables)
    best = support.argmax(0)
    images = np.arange(len(label))
    suggested, mean = predicted[best, images], support[best, images]
    doubted = images[(suggested != label) & (mean >= LEAST)]
    doubted = doubted[np.argsort(-mean[doubted], kind="stable")][:LISTED]
    return Doubts(
        [record.name for record in judges],
        first["path"].take(doubted),
        first["label"].take(doubted).to_pylist(),
        classes.take(pa.array(suggested[doubted])).to_pylist(),
        [float(f"{value:.3g}") for value in mean[doubted]],
    )


def positions(values: pa.ChunkedArray, classes: pa.Array) -> NDArray[np.int64]:
    """The position of each value in `classes`, (N,) int64; -1 for those that are not in it."""
    return pc.index_in(values, value_set=classes).fill_null(-1).to_numpy().astype(np.int64)
