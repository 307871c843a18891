"""Decide from the metadata of all images which are duplicates, which are outliers, and which can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.checking import duplicates, outliers
from pipeline.checking.metadata import BROKEN
from pipeline.images.tables import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.checking.inspected import Inspected
    from pipeline.config.datasets import Check

PROPERTIES = ("width", "height", "brightness", "contrast", "sharpness", "color")
NONE = -1  # no label, no group
Integer = TypeVar("Integer", np.int8, np.int32, np.int64)


class Validation:
    """The issues, the group of duplicates and the status of every image, as arrays in the order of the source."""

    def __init__(self, inspected: Inspected, options: Check) -> None:
        self.issues = inspected.issues()
        self.labels, self.classes = inspected.codes("label")
        codes, names = inspected.codes("official_split")
        self.has_official_splits = bool(names)
        # the position in SPLITS of each image's official split; an image without one counts as train
        self.split = np.array([*(SPLITS.index(name) for name in names), 0], np.int8)[codes]
        self.count = len(codes)
        self.unusable = self.any_of(BROKEN | {"no_label"})
        self.decodable_per_class = self.count_labels(~self.unusable)
        self.group = np.full(self.count, NONE, np.int32)
        self.quarantined = self.unusable.copy()
        self.find_copies(inspected, options)
        values = {name: np.where(self.unusable, np.nan, inspected.numbers(name)) for name in PROPERTIES}
        self.issues |= outliers.find(values, options.outliers)
        self.warned = self.any_of(self.issues)

    def any_of(self, codes: Iterable[str]) -> NDArray[np.bool_]:
        """Which images have any of these issues, (rows,) bool."""
        found = np.zeros(self.count, bool)
        for code in codes:
            if code in self.issues:
                found |= self.issues[code]
        return found

    def find_copies(self, inspected: Inspected, options: Check) -> None:
        """Number the groups of equal and nearly equal images by first appearance, and record their issues.

        Where a group is in several official splits, only its images in the last of SPLITS among them stay in use.
        Images without a label are numbered too, since a decision can give them one, but change nothing else.
        """
        decodable = np.flatnonzero(~self.any_of(BROKEN))
        hashes = inspected.column("pixel_hash").combine_chunks().take(pa.array(decodable))
        # arrow stores the 32 digits of each hash one after the other; Python strings would take three times the memory
        content, first = by_first_appearance(np.frombuffer(hashes.buffers()[2] or b"", "S32", len(hashes)))
        pairs = np.zeros((0, 2), np.int64)
        if options.near_duplicates:
            pairs = duplicates.near_pairs(inspected.fingerprints(decodable[first]), options.near_duplicates)
        component = duplicates.pair_components(len(first), pairs)[content]
        alike = np.bincount(component)[component] > 1
        self.group[decodable[alike]] = by_first_appearance(component[alike])[0]

        is_usable = ~self.unusable[decodable]
        usable, content, component = decodable[is_usable], content[is_usable], component[is_usable]
        split = self.split[usable]
        found = {
            "exact_duplicate": np.bincount(content)[content] > 1,
            "near_duplicate": differs(content, component),
            "label_conflict": differs(self.labels[usable], component),
            "split_leak": differs(split, component),
        }
        for code, which in found.items():
            self.issues[code] = np.zeros(self.count, bool)
            self.issues[code][usable[which]] = True
        self.quarantined[usable] = split < highest(split, component)

    def has_usable(self, label: str) -> bool:
        """Whether an image of this class can be decoded."""
        return label in self.decodable_per_class

    def images_per_class(self, classes: list[str]) -> dict[str, int]:
        """How many images of each class are not quarantined."""
        counts = self.count_labels(~self.quarantined)
        return {label: counts.get(label, 0) for label in classes}

    def used_per_split(self) -> dict[str, int]:
        """How many images of each official split are not quarantined; all as `unassigned` where there is no split."""
        counts = np.bincount(self.split[~self.quarantined], minlength=len(SPLITS)).tolist()
        return dict(zip(SPLITS, counts, strict=True)) if self.has_official_splits else {"unassigned": sum(counts)}

    def images_per_class_and_split(self, classes: list[str]) -> dict[str, dict[str, int]]:
        """The same by class; nothing where there is no official split."""
        if not self.has_official_splits:
            return {}
        counts = {
            split: self.count_labels(~self.quarantined & (self.split == number)) for number, split in enumerate(SPLITS)
        }
        return {label: {split: counts[split].get(label, 0) for split in SPLITS} for label in classes}

    def missing_in_official_splits(self, classes: list[str]) -> dict[str, list[str]]:
        """For each split of the publisher, the classes that have no image in it, quarantined ones not counted.

        Splits with images of every class are left out.
        """
        missing = {}
        for number in np.unique(self.split) if self.has_official_splits else ():
            counts = self.count_labels(~self.quarantined & (self.split == number))
            if absent := [label for label in classes if label not in counts]:
                missing[SPLITS[number]] = absent
        return missing

    def count_labels(self, which: NDArray[np.bool_]) -> dict[str, int]:
        """How many of the images `which` (rows,) bool each class has. Classes without any are left out."""
        counts = np.bincount(self.labels[which & (self.labels != NONE)], minlength=len(self.classes))
        return {label: count for label, count in zip(self.classes, counts.tolist(), strict=True) if count}

    def status(self) -> NDArray[np.str_]:
        """(rows,): `quarantined` if an image can't be used, `warning` if it can but something is odd, else `ok`."""
        return np.where(self.quarantined, "quarantined", np.where(self.warned, "warning", "ok"))

    def complete(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Add `group`, `status` and all issues to the tables of metadata, which have all rows in order."""
        start = 0
        status = self.status()
        for table in tables:
            rows = slice(start, start + len(table))
            start = rows.stop
            issues: list[list[str]] = [[] for _ in range(len(table))]
            for code, which in self.issues.items():
                for row in np.flatnonzero(which[rows]):
                    issues[row].append(code)
            group = pa.array(self.group[rows], mask=self.group[rows] == NONE)
            column = table.schema.get_field_index("issues")
            table = table.set_column(column, "issues", pa.array(issues, table.schema.types[column]))
            yield table.append_column("group", group).append_column("status", pa.array(status[rows]))


def by_first_appearance(values: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the D distinct ones of N values by first appearance.

    Returns the number of each value, (N,), and the positions at which the distinct ones first appear, (D,).
    """
    _, first, numbers = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[numbers], first[order]


def highest(values: NDArray[Integer], component: NDArray[np.int32]) -> NDArray[Integer]:
    """For each image, (N,): the highest of the values (N,) in its component, given as numbers (N,)."""
    found = np.full(component.max(initial=-1) + 1, np.iinfo(values.dtype).min, values.dtype)
    np.maximum.at(found, component, values)
    return found[component]


def differs(values: NDArray[Integer], component: NDArray[np.int32]) -> NDArray[np.bool_]:
    """For each image, (N,) bool: whether the values in its component differ."""
    return highest(values, component) != -highest(-values, component)
