"""Accuracy by slices of the images: by their size, brightness, group and class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.intervals import wilson
from pipeline.images.tables import read_columns
from pipeline.splitting.groups import path_keys
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.predictions import Predictions

PARTS = 4  # slices that a number is cut into, with as many images each
SIGNIFICANT = 0.05  # of finding a worse slice by chance, among all slices of a split


def properties_of(packed: PackedDataset, rows: NDArray[np.int64], dataset: str) -> pd.DataFrame:
    """What `check` knows of these rows of the packed data set. Raises UserError where it knows other images."""
    file = Path("data/checked", f"{dataset}.parquet")
    checked, _ = read_columns(file, ["path", "pixel_hash", "width", "height", "brightness", "listed_group"])
    positions = pc.index_in(packed.splits["path"], value_set=checked["path"])
    if positions.null_count:
        raise UserError(f"{file} lacks images of data/splits/{dataset}.parquet: run dvc repro split@{dataset}")
    properties: pd.DataFrame = checked.take(positions).to_pandas().set_axis(packed.positions).loc[rows]
    return properties


def attributes(packed: PackedDataset, properties: pd.DataFrame, dataset: str, group_by: str | None) -> pd.DataFrame:
    """The slice of each row with these properties, by attribute; None for an image in no group."""
    import pandas as pd

    rows = properties.index
    keys = path_keys(dataset, packed.splits["path"].to_pandas(), group_by)  # there may be none in val and test
    groups = pd.Series(keys, packed.positions, dtype=object).reindex(rows)
    return pd.DataFrame(
        {
            "pixels": parts(properties["width"].astype(int) * properties["height"].astype(int), "d"),
            "brightness": parts(properties["brightness"], ".3f"),
            "group": groups.fillna(properties["listed_group"]),
            "class": pd.Categorical(packed.table["label"].loc[rows], packed.classes),
        }
    )


def parts(values: pd.Series, digits: str) -> pd.Series:
    """Values by the range that each is in: PARTS ranges with as many images, or one for each of a few values."""
    import pandas as pd

    few = values.nunique() <= PARTS
    codes = values.rank(method="dense") if few else pd.qcut(values, PARTS, labels=False, duplicates="drop")
    ranges = values.groupby(codes).agg(["min", "max"])
    names = {
        code: f"{low:{digits}}" if low == high else f"{low:{digits}} to {high:{digits}}"
        for code, low, high in ranges.itertuples()
    }
    return codes.map(names).astype(pd.CategoricalDtype(list(dict.fromkeys(names.values())), ordered=True))


def accuracies(given: Predictions, sliced: pd.DataFrame) -> pd.DataFrame:
    """A row for each slice of each attribute that has several.

    `p_value` is how often chance alone would leave as few of the slice right, given how many of all images are:
    Fisher's exact test, one-sided.
    """
    import pandas as pd
    from scipy.stats import hypergeom

    right = pd.Series(given.correct, given.rows)
    tables = []
    for attribute, named in sliced.loc[given.rows].items():
        found = right.groupby(named, observed=True).agg(["size", "sum"])
        if len(found) > 1:
            tables.append(found.rename_axis("slice").reset_index().assign(attribute=str(attribute)))
    if not tables:
        return pd.DataFrame(columns=["attribute", "slice", "images", "accuracy", "low", "high", "p_value"])
    table = pd.concat([each.astype({"slice": object}) for each in tables], ignore_index=True)
    low, high = wilson(table["sum"], table["size"])
    return pd.DataFrame(
        {
            "attribute": table["attribute"],
            "slice": table["slice"],
            "images": table["size"],
            "accuracy": table["sum"] / table["size"],
            "low": low,
            "high": high,
            "p_value": hypergeom.cdf(table["sum"], len(right), int(right.sum()), table["size"]),
        }
    )


def worst(table: pd.DataFrame) -> Iterator[str]:
    """What to say of the slice with the lowest accuracy, of those that are worse than the rest by more than chance.

    With so many slices, some are worse by chance: the level is divided by their number (Bonferroni).
    """
    worse = table[table["p_value"] < SIGNIFICANT / max(1, len(table))]
    if len(worse):
        row = worse.sort_values("accuracy", kind="stable").iloc[0]
        yield (
            f"{row['attribute']} {row['slice']}: accuracy {row['accuracy']:.4f}"
            f" ({row['low']:.4f} to {row['high']:.4f}) on {row['images']:,} images"
        )
