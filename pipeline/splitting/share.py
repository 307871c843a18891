"""See to it that every class has a group on every side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.system.console import UserError

if TYPE_CHECKING:
    from pipeline.config.datasets import Split

# A bin is an interval of [0, 1). Bin 0 tests; bin 1 validates and bin 2 trains, or bins 1, 2, … are the folds.
TEST, VAL, TRAIN = 0, 1, 2
SIDES = ("test", "val", "train")


@dataclass
class Groups:
    """What is shared out: positions in [0, 1) (G,), whether a group had its side before (G,), and what it holds."""

    position: np.ndarray
    settled: np.ndarray
    classes: list[str]
    holds: Any  # scipy.sparse.csr_array (G, C): a group may have images of several classes


def share(name: str, groups: Groups, bins: np.ndarray, edges: np.ndarray, options: Split) -> np.ndarray:
    """(G,) the bin of each group: `bins` wherever chance gave every class a group in each bin.

    First for test and the rest together, which must have two groups (or all but one), so that test does not depend on
    the folds; then among the rest. Raises UserError for a class that has not enough groups.
    """
    wanted = np.diff(edges) > 0
    names = [*SIDES] if options.folds is None else ["test", *(f"fold {number}" for number in range(options.folds))]
    of_class = np.diff(groups.holds.tocsc().indptr)
    for label, count in zip(groups.classes, of_class, strict=True):
        if count < wanted.sum():
            between = " and ".join(np.array(names)[wanted])
            raise UserError(
                f"{name}: class '{label}' has too few different images ({count}) to share between {between};"
                f" expected at least {wanted.sum()}: add images or remove the class"
            )
    try:
        if wanted[TEST]:
            needs = np.stack([np.ones_like(of_class), np.minimum(of_class - 1, 2)], axis=1)
            tests = fill(groups, np.minimum(bins, 1), edges[[0, 1, -1]], needs) == TEST
            bins = np.where(tests, TEST, np.maximum(bins, np.flatnonzero(wanted)[1]))
        needs = np.tile(wanted.astype(np.int64), (len(of_class), 1))
        needs[:, TEST] = count_groups(groups, bins, len(wanted))[:, TEST]  # all that it has: test stays as it is
        return fill(groups, bins, edges, needs)
    except CanNotFill as short:
        label, bin_ = short.args
        anew = f", or remove data/splits/{name}.parquet to draw all sides anew" if groups.settled.any() else ""
        raise UserError(
            f"{name}: class '{label}' has {of_class[groups.classes.index(label)]} different images, but none that"
            f" {names[bin_]} could get without leaving another side too few: add images of this class{anew}"
        ) from None


class CanNotFill(Exception):
    """A class and a bin."""


def fill(groups: Groups, bins: np.ndarray, edges: np.ndarray, needs: np.ndarray) -> np.ndarray:
    """Bins that hold at least `needs` (C, B) groups of each class.

    A bin that lacks groups of a class takes the nearest to its interval out of bins that can spare them, new ones
    before those that would change sides; none that was in test leaves it.
    """
    bins = bins.copy()
    counts = count_groups(groups, bins, needs.shape[1])
    holds, held_by = groups.holds, groups.holds.tocsc()
    for label, bin_ in np.argwhere(counts < needs):
        members = held_by.indices[held_by.indptr[label] : held_by.indptr[label + 1]]
        position = groups.position[members]
        distance = np.maximum(edges[bin_] - position, position - edges[bin_ + 1]).clip(0)
        for group in members[np.lexsort((position, distance, groups.settled[members]))]:
            if counts[label, bin_] >= needs[label, bin_]:
                break
            old = bins[group]
            labels = holds.indices[holds.indptr[group] : holds.indptr[group + 1]]
            is_spare = old != bin_ and (counts[labels, old] > needs[labels, old]).all()
            if is_spare and not (groups.settled[group] and old == TEST):
                counts[labels, old] -= 1
                counts[labels, bin_] += 1
                bins[group] = bin_
        if counts[label, bin_] < needs[label, bin_]:
            raise CanNotFill(groups.classes[label], int(bin_))
    return bins


def count_groups(groups: Groups, bins: np.ndarray, number: int) -> np.ndarray:
    """(C, number) int64: groups of each class in each bin."""
    pairs = groups.holds.tocoo()
    return np.bincount(
        pairs.col.astype(np.int64) * number + bins[pairs.row], minlength=len(groups.classes) * number
    ).reshape(-1, number)
