"""How well a single attribute of the images predicts their class: a spurious correlation, if it is of the recording."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.attributes import SEED, Attribute

if TYPE_CHECKING:
    import pyarrow as pa

FOLDS = 5
FEWEST = 10  # images of a class; smaller ones are left out
CLASSES = 500  # at most: the largest ones
CUTS = 16  # quantiles at which numbers are cut into bins, at most
FAR = 4  # standard errors
# The skill from which a prediction is called out; of two classes: 70 % and 80 % balanced accuracy. What is seen in the
# picture may be what the classes are about
LEAST = {"recording": 0.4, "filing": 0.4, "detail": 0.4, "picture": 0.6}
FOLLOWS = {
    "bytes": ("size", "format", "color mode"),
    "bytes per pixel": ("size", "format", "color mode", "bytes"),
    "length of the file name": ("beginning of the file name",),
}
PER_BIN = 5  # images of a class of usual size that a bin should have, at least


class AttributePrediction(NamedTuple):
    """How well an attribute tells apart all classes, or (`label`) one class from the others, on held-out images."""

    attribute: Attribute
    label: str | None
    accuracy: float  # balanced: the mean of the classes' recalls
    chance: float
    error: float  # standard error of the accuracy
    chance_error: float  # the same, if the attribute says nothing

    @property
    def skill(self) -> float:
        """The share of the errors of guessing that is avoided: scikit-learn's adjusted balanced accuracy."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def is_finding(self) -> bool:
        """Whether this is both far from chance and more than what classes usually differ by."""
        if self.label is not None and self.attribute.kind in ("detail", "picture"):
            return False  # one class among many is often the darkest one, or the one with the least detail
        return self.skill >= LEAST[self.attribute.kind] and self.accuracy - self.chance >= FAR * self.chance_error


def findings(found: list[AttributePrediction]) -> list[AttributePrediction]:
    """The predictions to call out, one for an attribute, the best first. Bytes follow from size and format."""
    first: dict[str, AttributePrediction] = {}
    for prediction in found:
        if prediction.is_finding:
            first.setdefault(prediction.attribute.name, prediction)
    for name, causes in FOLLOWS.items():
        skills = [first[cause].skill for cause in causes if cause in first]
        if name in first and max(skills, default=-1.0) > first[name].skill - 0.1:
            del first[name]
    return sorted(first.values(), key=lambda prediction: -prediction.skill)


def in_words(prediction: AttributePrediction) -> str:
    """A sentence without its end: what predicts what, and how well."""
    what = "the class" if prediction.label is None else f"whether the class is {prediction.label}"
    accuracy = f"{100 * prediction.accuracy:.0f} % balanced accuracy on held-out images"
    return f"{prediction.attribute.name} alone predicts {what}: {accuracy}, chance is {100 * prediction.chance:.0f} %"


COSTS = {
    "recording": "a network may learn this instead of what the pictures show",
    "filing": "a network sees no names, but may learn what else sets apart the sources of these images",
    "detail": "how the images were saved, or how much there is to see: the former a network should not learn",
    "picture": "what the classes are about, or how their pictures were taken: the latter a network should not learn",
}


def predictions(table: pa.Table, attributes: list[Attribute]) -> list[AttributePrediction]:
    """How well each attribute predicts the class of the images in a table: any class, and the one it tells best."""
    first = first_of_groups(table["group"].to_pylist())
    labels = table["label"].to_pylist()
    counts = Counter(label for label, counted in zip(labels, first, strict=True) if counted).most_common(CLASSES)
    classes = sorted(label for label, count in counts if count >= FEWEST)
    if len(classes) < 2:
        return []
    position = {label: number for number, label in enumerate(classes)}
    codes = np.array([position.get(label, -1) for label in labels])
    rows = np.flatnonzero(first & (codes >= 0))
    codes = codes[rows]
    folds = stratified(codes, table["listed_group"].take(rows.tolist()).to_pylist())
    return [found for attribute in attributes for found in of_attribute(attribute, rows, codes, classes, folds)]


def first_of_groups(groups: list[int | None]) -> NDArray[np.bool_]:
    """(N,) bool: which images are the first of their group of copies, or in none: copies would predict each other."""
    first = {group: row for row, group in reversed(list(enumerate(groups)))}
    return np.array([group is None or first[group] == row for row, group in enumerate(groups)], bool)


def stratified(codes: NDArray[np.int64], groups: list[str | None]) -> NDArray[np.int64]:
    """(N,) numbers of folds, drawn so that every class is spread evenly and the groups of a list stay together."""
    units: dict[str | int, int] = {}  # by group, or by row where there is none
    unit_of = np.array([units.setdefault(row if name is None else name, len(units)) for row, name in enumerate(groups)])
    _, first = np.unique(unit_of, return_index=True)
    shuffled = np.random.default_rng(SEED).permutation(len(first))
    order = shuffled[np.argsort(codes[first][shuffled], kind="stable")]
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % FOLDS
    return folds[unit_of]


def quantile_bins(values: NDArray[np.float64], cuts: int) -> NDArray[np.int64]:
    """The bin of each number (M,): between two quantiles, or its own if it equals one, as sizes often do."""
    ordered = np.sort(values)
    edges = np.unique(ordered[np.arange(1, cuts + 1) * len(ordered) // (cuts + 1)])
    return np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")


def of_attribute(
    attribute: Attribute,
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    classes: list[str],
    folds: NDArray[np.int64],
) -> list[AttributePrediction]:
    """By a histogram classifier: a value belongs to the class in whose histogram it is most frequent.

    `codes` (M,) are the positions in `classes` of the images `rows` (M,), and `folds` (M,) hold each of them out once.
    """
    sizes = np.bincount(codes)
    count = len(classes)
    values = attribute.values[rows]
    cuts = int(min(CUTS, max(2, np.median(sizes) // PER_BIN)))
    bins = values.astype(np.int64) if attribute.levels else quantile_bins(values, cuts)
    width = int(bins.max()) + 1
    cells = (folds * count + codes) * width + bins
    histograms = np.bincount(cells, minlength=FOLDS * count * width).reshape(FOLDS, count, width)
    correct = np.zeros(count)  # images of each class
    told = np.zeros((count, count))  # of the images of a class (column), how many are taken for another (row)
    for held_out in histograms:
        seen = histograms.sum(0) - held_out
        frequency = seen / np.maximum(1, seen.sum(1, keepdims=True))
        best = frequency.argmax(0)
        np.add.at(correct, best, held_out[best, np.arange(width)])
        others = (frequency.sum(0) - frequency) / (count - 1)
        told += (frequency > others).astype(np.float64) @ held_out.T.astype(np.float64)
    recalls = correct / sizes
    errors = spread(recalls, sizes), spread(1 / count, sizes)
    found = [AttributePrediction(attribute, None, mean(recalls), 1 / count, *errors)]
    if count > 2:
        rates = told / sizes
        recalls = np.stack([rates.diagonal(), 1 - (rates.sum(1) - rates.diagonal()) / (count - 1)])  # (2, classes)
        label = int(recalls.sum(0).argmax())
        recalls, sizes = recalls[:, label], np.array([sizes[label], sizes.sum() - sizes[label]])
        errors = spread(recalls, sizes), spread(0.5, sizes)
        found.append(AttributePrediction(attribute, classes[label], mean(recalls), 0.5, *errors))
    return found


def mean(values: NDArray[np.float64]) -> float:
    """Rounded, so that it is the same in whatever order a processor adds up."""
    return round(float(values.mean()), 6)


def spread(recalls: NDArray[np.float64] | float, sizes: NDArray[np.int64]) -> float:
    """The standard error of the mean of such recalls, of classes of these sizes."""
    return round(float(np.sqrt((recalls * (1 - recalls) / sizes).sum()) / len(sizes)), 6)
