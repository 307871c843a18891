"""Likely wrong labels, where no backbone is at hand: validation images of which the best models are sure otherwise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.dashboard.standings import Standing, same_images
from pipeline.page.charts import positions

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
    """None without predictions of validation images. Test images are for the end, and judged by nobody.

    The judges are the best of those that were validated on the most images, as with `folds: all`.
    """
    able = [(standing.record, standing.record.validated.table) for standing in standings if standing.record.validated]
    if not able:
        return None
    widest, _ = max(able, key=lambda pair: len(pair[1]))  # of several the first, so the best
    chosen = [(record, table) for record, table in able if same_images(widest, record)][:JUDGES]
    judges, tables = zip(*chosen, strict=True)
    first = tables[0]
    predicted_by_any = pa.chunked_array([chunk for table in tables for chunk in table["predicted"].chunks])
    names = predicted_by_any.unique().to_pylist()
    predicted = np.stack([positions(table["predicted"], names) for table in tables])  # (judges, images)
    probability = np.stack([table["probability"].to_numpy() for table in tables])
    label = positions(first["label"], names)

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
        [names[number] for number in suggested[doubted]],
        [float(f"{value:.3g}") for value in mean[doubted]],
    )
