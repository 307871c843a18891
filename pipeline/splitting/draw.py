"""Draw a split for images without an official one, so that an image that was in test never trains.

Every image has a position in [0, 1), a hash of the seed and its key: what `group_by` finds in its path, or the group
that a list of labels gives it. Without these, the key is its perceptual hash, which most resized and compressed copies
share. The position of a group is the lowest of its images'. So an image that joins a group can only move it down, and a
group that was in test stays there.

The images of a class are cut at positions that are chosen when the class is first seen with these settings, so that
each split gets its fraction of the class's images, to within one group. `pipeline.splitting.cuts` remembers them. A
group below the first cut is in test; one below the next cut is in val, or in the first fold, and so on; the rest is
in train. Of a group with several classes, the highest of their cuts counts.

If `test` becomes smaller, a group between the new cut and an earlier one is left out: it must not train, and test is
the same as it was with this fraction before. So is, with folds, a group below that cut that an official val image
joins. Another seed or `group_by` gives other positions. That is another draw, which does not know the test set of this
one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.splitting.cuts import ClassCuts, Cuts, choose_cuts
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csc_array

    from pipeline.config.datasets import Split


@dataclass
class Groups:
    """The G groups that are drawn: those with images that have no official split. There are C classes."""

    number: NDArray[np.int64]  # (rows,) the group of each row, -1 for none of these
    position: NDArray[np.float64]  # (G,) in [0, 1)
    classes: list[str]  # those of usable images first, then others that have cuts
    used: int  # how many classes have usable images
    images: csc_array  # (G, C): how many images of each class are drawn with a group
    holds: tuple[NDArray[np.int64], NDArray[np.int64]]  # pairs (P,): the cuts of each such class apply to the group
    tests: NDArray[np.bool_]  # (G,) whether it may test: not with an official val image, which validates without folds
    without_val: NDArray[np.float64]  # (G,) the position that it would have without official val images

    @classmethod
    def of(cls, table: pd.DataFrame, kept: NDArray[np.bool_], seed: int, remembered: Iterable[str]) -> Groups:
        """The groups in the table of `draw`. `kept` (rows,) are its usable rows, `remembered` the classes with cuts."""
        import pandas as pd
        from scipy.sparse import csc_array

        drawn = kept & (table.placed == "train").to_numpy()
        number = pd.Index(table.component[drawn].unique()).get_indexer(table.component)
        is_member = number >= 0
        is_val = (table.official_split == "val").to_numpy()
        position, without_val = np.ones((2, number.max(initial=-1) + 1))
        np.minimum.at(position, number[is_member], positions(table[is_member], seed))
        np.minimum.at(without_val, number[is_member & ~is_val], positions(table[is_member & ~is_val], seed))

        used = sorted(set(table.label[kept]))
        classes = used + sorted(set(remembered) - set(used))
        label, first_label = (pd.Index(classes).get_indexer(table[c]) for c in ("label", "first_label"))
        counted = (np.ones(drawn.sum(), np.int64), (number[drawn], label[drawn]))
        images = csc_array(counted, shape=(len(position), len(classes)))
        pairs = np.stack([np.tile(number, 2), np.concatenate([label, first_label])])
        group, held = pairs[:, (pairs >= 0).all(axis=0)]
        tests = np.ones(len(position), bool)
        tests[number[drawn & is_val]] = False
        return cls(number, position, classes, len(used), images, (group, held), tests, without_val)

    def members(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The M groups that have drawn images of a class, (M,), and how many each has, (M,)."""
        of_class = slice(*self.images.indptr[label : label + 2])
        return self.images.indices[of_class], self.images.data[of_class]

    def bins(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """The number of each group's bin, (G,) from 0 to E, between the edges (C, E) of the classes.

        The first two edges end what is or was in test. A group that must not test is in bin 1 if its other images may
        have been in test before the official val image came, else in a later bin.
        """
        of_group = np.zeros((len(self.position), edges.shape[1]))
        groups, classes = self.holds
        np.maximum.at(of_group, groups, edges[classes])
        bins: NDArray[np.int64] = (self.position[:, None] >= of_group).sum(axis=1)
        may_have_tested = self.without_val < of_group[:, 1]
        return np.where(self.tests, bins, np.where(may_have_tested, 1, np.maximum(bins, 2)))


def positions(table: pd.DataFrame, seed: int) -> NDArray[np.float64]:
    """Positions (N,) in [0, 1). 32 bits are of the key; the rest, of the pixels, tell images of one key apart."""
    cell = np.floor(uniform("side", seed, table.key) * 2.0**32)
    return (cell + uniform("pixels", seed, table.pixel_hash)) * 2.0**-32


def draw(name: str, table: pd.DataFrame, options: Split, seed: int, cuts: Cuts) -> pd.DataFrame:
    """The columns `split` (train, val or test) and `fold` (null in test, and without folds) for the usable rows.

    `table` has the columns of `groups.join`, `label`, and `first_label`, the label before a person's decision, so that
    a new label takes no image out of test. Images with an official split of test or val keep it. `split` is null for
    images to leave out, because they were in test when `test` was larger. New cuts are added to `cuts`. Raises
    UserError for a class that has too few groups.
    """
    import pandas as pd

    kept = (table.used & ~table.leaked).to_numpy()
    usable = table[kept]
    has_official = {split: (usable.placed == split).any() for split in ("test", "val")}
    test = 0.0 if has_official["test"] else options.test
    val = 0.0 if has_official["val"] or options.folds else options.val
    names = [f"fold {fold}" for fold in range(options.folds)] if options.folds else ["val"] * (val > 0) + ["train"]

    groups = Groups.of(table, kept, seed, cuts)
    refuse_few(name, groups, ["test"] * (test > 0) + names)
    drawn_by = f"seed {seed}" if options.group_by is None else f"seed {seed}, group_by {options.group_by}"
    if table.listed_group.notna().any():
        drawn_by += ", listed groups"
    records = [dict(cuts.get(label, {}).get(drawn_by, {})) for label in groups.classes]
    edges = cut_test(groups, records, test)
    if len(names) > 1:
        edges = np.hstack([edges, cut_rest(groups, records, edges, test, val, len(names))])
    bins = groups.bins(np.maximum.accumulate(edges, axis=1))  # 0: test; 1: was in test once; 2, 3, …: `names`
    refuse_empty(name, groups, bins, ({0: "test"} if test else {}) | dict(enumerate(names, start=2)))
    for label, record in zip(groups.classes, records, strict=True):
        if record:
            cuts.setdefault(label, {})[drawn_by] = record

    in_bin = np.where(usable.placed == "train", bins[groups.number[kept]], -1)
    val_bin = 2 + options.fold if options.folds else 2 if val else None
    masks = [(in_bin == 0) | (usable.placed == "test"), (in_bin == val_bin) | (usable.placed == "val")]
    split = pd.Series(np.select(masks, ["test", "val"], "train"), usable.index, dtype=object).where(in_bin != 1, None)
    fold = pd.Series(in_bin - 2, usable.index, dtype="Int32").where((in_bin >= 2) & (options.folds is not None))
    return pd.DataFrame({"split": split, "fold": fold})


def cut_test(groups: Groups, records: list[ClassCuts], test: float) -> NDArray[np.float64]:
    """The test cut of each class and the highest that it has ever had, (C, 2); 0 without a cut.

    New cuts are added to `records`. A cut is chosen anew if no group is below it. It does not depend on val or folds,
    so at least two groups are left above it for them.
    """
    key = f"test {test}"
    for label, record in enumerate(records):
        members, images = groups.members(label)
        members, images = members[groups.tests[members]], images[groups.tests[members]]
        position = groups.position[members]
        if test and len(position) and not (key in record and position.min() < record[key][0]):
            target = test * images.sum(keepdims=True)
            record[key] = choose_cuts(position, images, target, spared=min(2, len(position) - 1))
    present = [record.get(key, [0.0])[0] for record in records]
    highest = [max((cut[0] for key, cut in record.items() if "," not in key), default=0.0) for record in records]
    return np.stack([present, highest], axis=1)


def cut_rest(
    groups: Groups, records: list[ClassCuts], tested: NDArray[np.float64], test: float, val: float, splits: int
) -> NDArray[np.float64]:
    """The cuts between val and train, or between folds, (C, splits - 1).

    `tested` (C, 2) is what `cut_test` returned. New cuts are added to `records`. Those that leave a split without a
    group are chosen anew.
    """
    is_rest = groups.bins(tested) == 2
    key = f"test {test}, " + (f"val {val}" if val else f"folds {splits}")
    for label, record in enumerate(records):
        members, all_images = groups.members(label)
        position, images = groups.position[members[is_rest[members]]], all_images[is_rest[members]]
        found = np.searchsorted(record.get(key, []), position, side="right")
        if len(position) and len(np.unique(found)) < splits:
            share = val * all_images.sum() if val else images.sum() / splits
            record[key] = choose_cuts(position, images, share * np.arange(1, splits), spared=1)
    return np.array([record.get(key, [0.0] * (splits - 1)) for record in records])


def refuse_few(name: str, groups: Groups, splits: list[str]) -> None:
    """Raise UserError for a class that has fewer groups than there are splits and folds."""
    for number, label in enumerate(groups.classes[: groups.used]):
        count = len(groups.members(number)[0])
        if count < len(splits):
            few = f"has too few different images ({count}) to share between {' and '.join(splits)}"
            elsewhere = "has different images in the official val or test split alone, none to train on"
            raise UserError(
                f"{name}: class '{label}' {few if count else elsewhere}; expected at least {len(splits)}: add images or"
                " remove the class"
            )


def refuse_empty(name: str, groups: Groups, bins: NDArray[np.int64], splits: dict[int, str]) -> None:
    """Raise UserError for a class without a group in one of the bins whose names are in `splits`."""
    for number, label in enumerate(groups.classes[: groups.used]):
        members, _ = groups.members(number)
        for bin_, split in splits.items():
            if bin_ not in bins[members]:
                raise UserError(
                    f"{name}: class '{label}' has {len(members)} different images, but none is left for {split}: add"
                    f" images of this class, or remove its line from data/splits/{name}.json to draw it anew"
                )


def train_order(table: pd.DataFrame, seed: int) -> pd.Series:
    """For each image, its place in [0, 1) in a random order of the images of its class and split.

    So the images below a fraction are that fraction of each class and split, with at least one image of each. They
    include the images below any smaller fraction.
    """
    import pandas as pd

    order = pd.Series(uniform("order", seed, table.path), table.index).groupby([table.label, table.split])
    return (order.rank(method="first") - 1) / order.transform("size")


def uniform(purpose: str, seed: int, keys: Iterable[str]) -> NDArray[np.float64]:
    """Hashes (N,) float64 in [0, 1) of N keys. Those for another purpose or seed are independent of these."""
    digests = [hashlib.blake2b(f"{purpose}:{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    bits = np.frombuffer(b"".join(digests), ">u8") >> np.uint64(11)  # as many as a float64 holds
    return bits.astype(np.float64) * 2.0**-53
