"""Draw the sides of images that the publisher has not placed, so that an image that was in test never trains.

An image has a position in [0, 1): the hash of the seed and its `group_by` key, or else its perceptual hash, which most
resized and compressed copies share. A group is where the first of its images is. So an image that joins a group can
only move it forward, and what was in test stays there.

A class is cut at positions that are chosen when it is first seen with the settings: a side gets its fraction of the
class's images, to within one group. From then on `pipeline.splitting.cuts` remembers them. What lies below the first
cut tests, what lies below the next validates (or is the first fold), and so on; what is left trains. A group that
holds several classes is cut at the last of their cuts.

What lay below a test cut once and lies above the present one, because `test` is smaller now, is left out: it may not
train, and test is the same as it was with this fraction before. Another seed or `group_by` gives other positions: it is
another draw, which does not know what tests in this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.splitting.cuts import Cuts, Record, choose_cuts
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csc_array

    from pipeline.config.datasets import Split


@dataclass
class Groups:
    """What is drawn: the groups that have images which the publisher has not placed."""

    number: NDArray[np.int64]  # (rows,) each row's group, -1 for none of these
    position: NDArray[np.float64]  # (G,) in [0, 1)
    classes: list[str]  # those of usable images, then others that have cuts
    used: int  # how many classes have usable images
    images: csc_array  # (G, C): how many images of each class are drawn with a group
    holds: tuple[NDArray[np.int64], NDArray[np.int64]]  # groups and classes (P,): a group is cut by these classes' cuts

    @classmethod
    def of(cls, table: pd.DataFrame, kept: NDArray[np.bool_], seed: int, remembered: Iterable[str]) -> Groups:
        """The groups of `draw`'s table, of which `kept` (rows,) are usable; classes of `remembered` have cuts."""
        import pandas as pd
        from scipy.sparse import csc_array

        drawn = kept & (table.placed == "train").to_numpy()
        number = pd.Index(table.component[drawn].unique()).get_indexer(table.component)
        is_member = number >= 0
        position = np.ones(number.max(initial=-1) + 1)
        np.minimum.at(position, number[is_member], positions(table[is_member], seed))

        used = sorted(set(table.label[kept]))
        classes = used + sorted(set(remembered) - set(used))
        label, first_label = (pd.Categorical(table[c], categories=classes).codes for c in ("label", "first_label"))
        counted = (np.ones(drawn.sum(), np.int64), (number[drawn], label[drawn]))
        images = csc_array(counted, shape=(len(position), len(classes)))
        pairs = np.stack([np.tile(number, 2), np.concatenate([label, first_label])])
        group, held = pairs[:, (pairs >= 0).all(axis=0)]
        return cls(number, position, classes, len(used), images, (group, held))

    def members(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Groups (N,) that have drawn images of a class, and how many of these each has (N,)."""
        of_class = slice(*self.images.indptr[label : label + 2])
        return self.images.indices[of_class], self.images.data[of_class]

    def bins(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """(G,) between which edges each group lies, 0 to E, where those of the classes are (C, E)."""
        of_group = np.zeros((len(self.position), edges.shape[1]))
        groups, classes = self.holds
        np.maximum.at(of_group, groups, edges[classes])
        bins: NDArray[np.int64] = (self.position[:, None] >= of_group).sum(axis=1)
        return bins


def positions(table: pd.DataFrame, seed: int) -> NDArray[np.float64]:
    """(N,) float64 in [0, 1): 32 bits from the key; different images with one key are told apart by their pixels."""
    cell = np.floor(uniform("side", seed, table.key) * 2.0**32)
    return (cell + uniform("pixels", seed, table.pixel_hash)) * 2.0**-32


def draw(name: str, table: pd.DataFrame, options: Split, seed: int, cuts: Cuts) -> pd.DataFrame:
    """Columns `split` (train, val, test) and `fold` (null in test, or without folds) for every usable row of `table`.

    `table` has the columns of `groups.join`, `label` and `first_label`, the one before a person's decision: a new label
    takes no image out of test. `split` is null for images to leave out, because they tested with a larger `test`.
    Test and val images of the publisher keep their sides. Cuts that are chosen are added to `cuts`. Raises UserError
    for a class that has too few groups.
    """
    import pandas as pd

    kept = (table.used & ~table.leaked).to_numpy()
    usable = table[kept]
    has_official = {side: (usable.placed == side).any() for side in ("test", "val")}
    test = 0.0 if has_official["test"] else options.test
    val = 0.0 if has_official["val"] or options.folds else options.val
    names = [f"fold {fold}" for fold in range(options.folds)] if options.folds else ["val"] * (val > 0) + ["train"]

    groups = Groups.of(table, kept, seed, cuts)
    refuse_few(name, groups, ["test"] * (test > 0) + names)
    drawn_by = f"seed {seed}" if options.group_by is None else f"seed {seed}, group_by {options.group_by}"
    records = [dict(cuts.get(label, {}).get(drawn_by, {})) for label in groups.classes]
    edges = cut_test(groups, records, test)
    if len(names) > 1:
        edges = np.hstack([edges, cut_rest(groups, records, edges, test, val, len(names))])
    bins = groups.bins(np.maximum.accumulate(edges, axis=1))  # 0 tests, 1 has tested, 2, 3, … are as `names` says
    refuse_empty(name, groups, bins, ({0: "test"} if test else {}) | dict(enumerate(names, start=2)))
    for label, record in zip(groups.classes, records, strict=True):
        if record:
            cuts.setdefault(label, {})[drawn_by] = record

    in_bin = np.where(usable.placed == "train", bins[groups.number[kept]], -1)
    val_bin = 2 + options.fold if options.folds else 2 if val else None
    sides = [(in_bin == 0) | (usable.placed == "test"), (in_bin == val_bin) | (usable.placed == "val")]
    split = pd.Series(np.select(sides, ["test", "val"], "train"), usable.index, dtype=object).where(in_bin != 1, None)
    fold = pd.Series(in_bin - 2, usable.index, dtype="Int32").where((in_bin >= 2) & (options.folds is not None))
    return pd.DataFrame({"split": split, "fold": fold})


def cut_test(groups: Groups, records: list[Record], test: float) -> NDArray[np.float64]:
    """(C, 2) the test cut of each class, and the highest that it has had; 0 without any. Adds new ones to `records`.

    The cut does not depend on val or folds: two groups at least are above it. A cut is raised if no group is below it.
    """
    key = f"test {test}"
    for label, record in enumerate(records):
        members, images = groups.members(label)
        position = groups.position[members]
        if test and len(position) and not (key in record and position.min() < record[key][0]):
            target = test * images.sum(keepdims=True)
            record[key] = choose_cuts(position, images, target, spared=min(2, len(position) - 1))
    present = [record.get(key, [0.0])[0] for record in records]
    highest = [max((cut[0] for key, cut in record.items() if "," not in key), default=0.0) for record in records]
    return np.stack([present, highest], axis=1)


def cut_rest(
    groups: Groups, records: list[Record], tested: NDArray[np.float64], test: float, val: float, sides: int
) -> NDArray[np.float64]:
    """(C, sides - 1) the cuts between val and train, or between folds. Adds new ones to `records`.

    `tested` (C, 2) is from `cut_test`. Cuts are chosen anew if they leave a side without a group.
    """
    is_rest = groups.bins(tested) == 2
    key = f"test {test}, " + (f"val {val}" if val else f"folds {sides}")
    for label, record in enumerate(records):
        members, all_images = groups.members(label)
        position, images = groups.position[members[is_rest[members]]], all_images[is_rest[members]]
        found = np.searchsorted(record.get(key, []), position, side="right")
        if len(position) and len(np.unique(found)) < sides:
            share = val * all_images.sum() if val else images.sum() / sides
            record[key] = choose_cuts(position, images, share * np.arange(1, sides), spared=1)
    return np.array([record.get(key, [0.0] * (sides - 1)) for record in records])


def refuse_few(name: str, groups: Groups, sides: list[str]) -> None:
    """Raise UserError for a class that has fewer groups than sides."""
    for number, label in enumerate(groups.classes[: groups.used]):
        count = len(groups.members(number)[0])
        if count < len(sides):
            raise UserError(
                f"{name}: class '{label}' has too few different images ({count}) to share between"
                f" {' and '.join(sides)}; expected at least {len(sides)}: add images or remove the class"
            )


def refuse_empty(name: str, groups: Groups, bins: NDArray[np.int64], sides: dict[int, str]) -> None:
    """Raise UserError for a class that has no group in one of the bins that `sides` names."""
    for number, label in enumerate(groups.classes[: groups.used]):
        members, _ = groups.members(number)
        for bin_, side in sides.items():
            if bin_ not in bins[members]:
                raise UserError(
                    f"{name}: class '{label}' has {len(members)} different images, but none is left for {side}: add"
                    f" images of this class, or remove its line from data/splits/{name}.json to draw it anew"
                )


def train_order(table: pd.DataFrame, seed: int) -> pd.Series:
    """For each image its place among those of its class and side, from 0 to below 1, in an order of its own.

    The images below a fraction are that fraction of each class and side, at least one of each, and contain the images
    below any smaller one.
    """
    import pandas as pd

    order = pd.Series(uniform("order", seed, table.path), table.index).groupby([table.label, table.split])
    return (order.rank(method="first") - 1) / order.transform("size")


def uniform(purpose: str, seed: int, keys: Iterable[str]) -> NDArray[np.float64]:
    """(N,) float64 in [0, 1): hashes of the keys, independent of each other for another purpose or seed."""
    digests = [hashlib.blake2b(f"{purpose}:{seed}:{key}".encode(), digest_size=8).digest() for key in keys]
    return (np.frombuffer(b"".join(digests), ">u8") >> np.uint64(11)).astype(
        np.float64
    ) * 2.0**-53  # as many bits as a float64 holds
