"""How splits differ: in the attributes of their images, in the shares of their classes, in copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.attributes import Attribute, text
from pipeline.images.tables import SPLITS
from pipeline.system.console import first_few

FEWEST = 20  # images that a split must have to be compared
LEAST = 0.2  # the smallest distance that is called out, from 0 (equal distributions) to 1
SAID = 3  # differences in a line
CHANCE = 1e-6  # the largest p-value of a difference that is called out
# These differ between any two splits: each is listed on its own, and publishers name the split in the file name
OF_THE_LISTING = {
    *("beginning of the file name", "length of the file name", "number in the file name", "position in the source"),
}


class Shift(NamedTuple):
    """A difference between two splits, of all their images or of those of one class (`label`)."""

    attribute: Attribute
    splits: tuple[str, str]
    label: str | None
    distance: float  # of Kolmogorov and Smirnov for numbers, total variation for texts: 0 to 1
    probability: float  # of a difference like this if the splits were drawn from the same images
    measure: str  # what `typical` is of each split: the median, or the share of the text whose share differs most
    typical: tuple[str, str]

    @property
    def is_finding(self) -> bool:
        return self.distance >= LEAST and self.probability <= CHANCE


def shifts(attributes: list[Attribute], labels: list[str], copies: list[bool], splits: list[str | None]) -> list[Shift]:
    """How later splits differ from the first: in each attribute, over all images and in the class that differs most.

    `labels`, `copies` (whether it has one) and `splits` are those of the N images.
    """
    compared = [text("class", "recording", labels)]
    compared.append(text("copies", "recording", ["with a copy" if copy else "without a copy" for copy in copies]))
    compared += [attribute for attribute in attributes if attribute.name not in OF_THE_LISTING]
    present = [split for split in SPLITS if split in splits]
    split_of, class_of = np.array(splits, object), np.array(labels, object)
    found = []
    for split in present[1:]:
        one, other = (np.flatnonzero(split_of == name) for name in (present[0], split))
        classes = [
            (label, one[class_of[one] == label], other[class_of[other] == label]) for label in sorted(set(labels))
        ]
        for attribute in compared:
            overall = difference(attribute, (present[0], split), None, one, other)
            within = [difference(attribute, (present[0], split), *rows) for rows in classes]
            found += [shift for shift in (overall, worst(within)) if shift is not None]
    return found


def findings(found: list[Shift]) -> list[Shift]:
    """The differences to call out, the largest first; that of one class only where all images together show none."""
    first: dict[tuple[str, tuple[str, str]], Shift] = {}
    for shift in found:
        if shift.is_finding:
            first.setdefault((shift.attribute.name, shift.splits), shift)
    called = [shift for name, shift in first.items() if name[0] != "bytes per pixel" or ("bytes", name[1]) not in first]
    return sorted(called, key=lambda shift: -shift.distance)


def in_words(found: list[Shift]) -> list[str]:
    """A line for each pair of splits: what differs most."""
    lines = []
    for splits in dict.fromkeys(shift.splits for shift in found):
        shifts = [shift for shift in found if shift.splits == splits]
        told = [f"{described(shift)} ({shift.measure} {' against '.join(shift.typical)})" for shift in shifts]
        lines.append(
            f"{' and '.join(splits)} differ in {first_few(told, SAID)}: results on one may not hold for the other"
        )
    return lines


def described(shift: Shift) -> str:
    return shift.attribute.name if shift.label is None else f"{shift.attribute.name} of class {shift.label}"


def worst(found: list[Shift | None]) -> Shift | None:
    sure = [shift for shift in found if shift is not None and shift.probability <= CHANCE]
    return max(sure, key=lambda shift: shift.distance, default=None)


def difference(
    attribute: Attribute,
    splits: tuple[str, str],
    label: str | None,
    one: NDArray[np.int64],
    other: NDArray[np.int64],
) -> Shift | None:
    """Between two sets of images, given by their positions; None if one of them is too small."""
    if min(len(one), len(other)) < FEWEST:
        return None
    here, there = attribute.values[one], attribute.values[other]
    if attribute.levels:
        distance, probability, level = total_variation(here.astype(int), there.astype(int))
        measure = attribute.levels[level]
        typical = [f"{100 * (values == level).mean():.0f} %" for values in (here, there)]
    else:
        distance, probability = kolmogorov_smirnov(here, there)
        measure = "median"
        typical = [f"{float(f'{np.median(values):.3g}'):,.8g}" for values in (here, there)]
    return Shift(attribute, splits, label, round(distance, 6), probability, measure, (typical[0], typical[1]))


def kolmogorov_smirnov(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """The largest distance between the distribution functions, and how probable one like this is by chance."""
    from scipy.special import kolmogorov  # scipy.stats would take a second to import

    values = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(each), values, "right") / len(each) for each in (one, other)]
    distance = float(np.abs(below[0] - below[1]).max())
    return distance, float(kolmogorov(distance * np.sqrt(len(one) * len(other) / len(values))))


def total_variation(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[float, float, int]:
    """Half the sum of the differences of shares; how probable that is by chance (chi-squared); where it is largest."""
    from scipy.special import chdtrc

    counts = np.stack([np.bincount(each, minlength=max(one.max(), other.max()) + 1) for each in (one, other)])
    shares = counts / counts.sum(1, keepdims=True)
    apart = np.abs(shares[0] - shares[1])
    present = counts[:, counts.sum(0) > 0]
    expected = present.sum(1, keepdims=True) * present.sum(0) / present.sum()
    square = float(((present - expected) ** 2 / expected).sum())
    probability = float(chdtrc(present.shape[1] - 1, square)) if present.shape[1] > 1 else 1.0
    return float(apart.sum()) / 2, probability, int(apart.argmax())
