"""Group images that belong together: equal, nearly equal, or by their paths of one patient, video and so on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config.fields import shown
from pipeline.images.tables import SPLITS
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.datasets import Split

# Seconds to search all paths, and in addition for each of them; usual regular expressions take microseconds
PATIENCE = 2.0
PATIENCE_EACH = 2e-4


def join(name: str, table: pd.DataFrame, options: Split) -> pd.DataFrame:
    """The images of `table` that can be decoded, with four more columns.

    `component` is the number of the image's group. Two images are in one group if a chain of images with equal
    `pixel_hash`, `group`, `listed_group` or `group_by` keys connects them. Images that are not `used` count too, so
    that leaving out an image moves no other. `key` is what the image's position is drawn from: its `group_by` key, or
    else its `listed_group`, or else its `phash`. `placed` is the official split, or `train` where there is none; with
    folds, also instead of `val`. An official split in which no image has a label does not count: an image that a
    decision labels there is drawn like the others. `leaked` says that the image is used, and so is another of its
    group in an official split that comes later in SPLITS.
    """
    import pandas as pd

    table = table[table.pixel_hash.notna()].reset_index(drop=True)
    named = pd.Series(path_keys(name, table.path, options.group_by), dtype=object)
    component = value_components(table.pixel_hash, table.group, table.listed_group, named)
    labeled = table.official_split[table.first_label.notna()]
    placed = table.official_split.where(table.official_split.isin(labeled)).fillna("train")
    if options.folds is not None:
        placed = placed.replace("val", "train")
    rank = placed.map({split: rank for rank, split in enumerate(SPLITS)})
    strongest = rank.where(table.used).groupby(component).transform("max")
    return table.assign(
        component=component,
        key=named.fillna(table.listed_group).fillna(table.phash),
        placed=placed,
        leaked=table.used & (rank < strongest),
    )


def path_keys(name: str, paths: pd.Series, group_by: str | None) -> list[str | None]:
    """What `group_by` finds in each path, or None: its first capturing group if it has one, else the whole match.

    Raises UserError if it finds nothing in any path, or takes too long.
    """
    if group_by is None:
        return [None] * len(paths)
    pattern = re.compile(group_by)
    keys: list[str | None] = []
    try:
        with time_limit(PATIENCE + PATIENCE_EACH * len(paths)):
            for path in paths:
                match = pattern.search(path)
                keys.append((match[min(pattern.groups, 1)] or None) if match else None)
    except TimeoutError:
        raise UserError(
            f"params.yaml: datasets.{name}.split.group_by = {shown(group_by)} takes too long, last in"
            f" {shown(path)}; expected a regular expression without repetitions in each other: (a+)+"
        ) from None
    if not any(keys):
        example = f", e.g. {shown(paths.iloc[0])}" if len(paths) else ""
        raise UserError(
            f"params.yaml: datasets.{name}.split.group_by = {shown(group_by)} finds nothing in any path{example};"
            " expected a regular expression that finds the part that names a group"
        )
    return keys


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it has used so many seconds of CPU time.

    This interrupts a regular expression too, because `re` handles signals while it searches. Works in the main thread
    only.
    """

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def value_components(*columns: pd.Series) -> NDArray[np.int32]:
    """The number of each row's connected component, (N,) int32. Equal values of a column connect rows; nulls do not."""
    import pandas as pd

    from pipeline.checking.duplicates import pair_components

    rows, values, nodes = [], [], len(columns[0])  # the graph's nodes: every row, and every value
    for column in columns:
        codes, distinct = pd.factorize(column)
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        values.append(nodes + codes[known])
        nodes += len(distinct)
    pairs = np.stack([np.concatenate(rows), np.concatenate(values)], axis=1)
    return pair_components(nodes, pairs)[: len(columns[0])]
