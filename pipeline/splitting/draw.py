"""Draw sides for groups of images by a hash, so that a group stays where it is as the data grow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.splitting.share import TEST, TRAIN, VAL, Groups, share

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.datasets import Split


def draw(
    name: str, table: pd.DataFrame, options: Split, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Columns `split` (train, val, test) and `fold` (null in test, or without folds) for every row of `table`.

    `table` has the columns of `groups.join` and `placed`, the official side; test and val images of the publisher keep
    theirs. Every other group has a position in [0, 1), the hash of seed and key, and goes where it falls. So of the n
    groups of a class a side of fraction f gets f ± sqrt(f (1 - f) / n) (standard deviation of the binomial).

    Groups with images of `previous`, an earlier split table, stay where these are; of groups that have become one,
    test comes before val before train. Then `share` sees to it that every class has a group on every side, and raises
    UserError where it can't.
    """
    import pandas as pd
    from scipy.sparse import csr_array

    edges = bin_edges(options, set(table.placed))
    is_free = (table.placed == "train").to_numpy()
    free = table[is_free]
    number, _ = pd.factorize(free.component)
    before = bins_before(free, number, edges, previous)
    position = uniform("side", seed, free.key[~free.component.duplicated()])
    bins = np.where(before >= 0, before, np.searchsorted(edges[1:-1], position, side="right"))

    classes = sorted(set(table.label))
    labels = pd.Categorical(free.label, categories=classes).codes
    holds = csr_array((np.ones(len(free), bool), (number, labels)), shape=(len(position), len(classes)))
    bins = share(name, Groups(position, before >= 0, classes, holds), bins, edges, options)

    bin_of = np.where(table.placed == "test", TEST, VAL)
    bin_of[is_free] = bins[number]
    val = VAL if options.folds is None else VAL + options.fold
    split = np.select([bin_of == TEST, bin_of == val], ["test", "val"], "train")
    fold = pd.Series(bin_of - 1, table.index, dtype="Int32").where((bin_of > TEST) & (options.folds is not None))
    return pd.DataFrame({"split": split, "fold": fold}, table.index)


def train_order(table: pd.DataFrame, seed: int) -> pd.Series:
    """For each image its place among those of its class and side, from 0 to below 1, in an order of its own.

    The images below a fraction are that fraction of each class and side, at least one of each, and contain the images
    below any smaller one.
    """
    import pandas as pd

    order = pd.Series(uniform("order", seed, table.path), table.index).groupby([table.label, table.split])
    return (order.rank(method="first") - 1) / order.transform("size")


def uniform(purpose: str, seed: int, keys: Iterable[str]) -> np.ndarray:
    """(N,) float64 in [0, 1): hashes of the keys, independent of each other for another purpose or seed."""
    digests = [hashlib.blake2b(f"{purpose}:{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    return (np.frombuffer(b"".join(digests), ">u8") >> np.uint64(11)) * 2.0**-53  # as many bits as a float64 holds


def bin_edges(options: Split, placed: set[str]) -> np.ndarray:
    """(bins + 1,) from 0 to 1; a side that the publisher has placed gets none of the rest."""
    test = 0.0 if "test" in placed else options.test
    if options.folds is not None:
        return np.array([0, *(test + (1 - test) * np.arange(options.folds) / options.folds), 1])
    val = 0.0 if "val" in placed else options.val
    return np.array([0, test, test + val, 1])


def bins_before(free: pd.DataFrame, number: np.ndarray, edges: np.ndarray, previous: pd.DataFrame | None) -> np.ndarray:
    """(groups,) the first bin that images of a group were in, -1 for new groups.

    An image is known by its pixels, wherever it has moved, or else by its path, if it was stored anew.
    """
    import pandas as pd

    if previous is None:
        return np.full(number.max(initial=-1) + 1, -1)
    sides = previous.split.map({"test": TEST, "val": VAL, "train": TRAIN})
    bins = np.where(previous.fold.notna(), previous.fold.astype("float64") + 1, sides)
    by_content, by_path = (pd.Series(bins, previous[column]) for column in ("pixel_hash", "path"))
    by_content = by_content[~by_content.index.duplicated()]
    known = free.pixel_hash.map(by_content).fillna(free.path.map(by_path))
    known = known.where(known.isin(np.flatnonzero(np.diff(edges) > 0)))
    return known.groupby(number).min().fillna(-1).to_numpy(np.int64)
