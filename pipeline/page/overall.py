"""What the pages show of findings about a data set as a whole, each with a chart and some of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.checking.drift import described
from pipeline.checking.name_groups import quoted
from pipeline.page.advice import COSTS, GROUPS_COST, MENDS, SPLITS_COST, SPLITS_MEND
from pipeline.page.charts import tick

if TYPE_CHECKING:
    from pipeline.checking.attributes import Attribute
    from pipeline.checking.correlation import AttributePrediction
    from pipeline.checking.drift import Shift
    from pipeline.checking.name_groups import Suggestion
    from pipeline.checking.overview import Overview

SHOWN = 4  # findings of one kind
CLASSES = 8  # in a chart
BINS = 40
PICTURED = 5  # images with the lowest values, and as many with the highest
NOTHING = 2  # standard errors above chance: less is called guessing
NAMED = 4  # texts in a chart; all others are one


class Strip(NamedTuple):
    """Images side by side, and what they have in common."""

    caption: str
    pictures: list[tuple[str, str]]  # path, and what to write below


class Bars(NamedTuple):
    """A row of a chart: for numbers, bars side by side; for texts, parts of one bar."""

    label: str
    bars: list[tuple[float, str]]  # height or share from 0 to 1, and what it counts


class Chart(NamedTuple):
    title: str
    rows: list[Bars]
    axis: list[str]  # lowest value, unit and highest value of numbers; or the texts
    is_number: bool


class Finding(NamedTuple):
    """What is the matter, what it costs, what to do about it; a chart; images."""

    title: str
    told: str
    cost: str
    mend: str
    charts: list[Chart]
    strips: list[Strip]
    code: str = ""  # to paste into params.yaml


class AttributeScore(NamedTuple):
    """A row of the table of all attributes."""

    name: str
    overall: str
    one: str
    label: str
    is_finding: bool


def findings(overview: Overview) -> list[Finding]:
    """What predicts the class, how the publisher's splits differ, which groups file names show."""
    paths, labels, splits = (overview.column(name) for name in ("path", "label", "official_split"))
    found = [correlated(prediction, paths, labels) for prediction in overview.correlations[:SHOWN]]
    found += drifted(overview.shifts, paths, labels, splits)
    if overview.groups:
        found.append(grouped(overview.groups, overview.name))
    return found


def drifted(
    shifts: list[Shift], paths: list[str], labels: list[str], splits: list[str | None], mend: str = SPLITS_MEND
) -> list[Finding]:
    """A finding for each pair of splits."""
    pairs = dict.fromkeys(shift.splits for shift in shifts)
    found = [[shift for shift in shifts if shift.splits == pair][:SHOWN] for pair in pairs]
    return [differing(some, paths, labels, splits, mend) for some in found]


def correlated(prediction: AttributePrediction, paths: list[str], labels: list[str]) -> Finding:
    attribute = prediction.attribute
    accuracy, error = 100 * prediction.accuracy, 100 * prediction.error
    what = "the class" if prediction.label is None else f"whether the class is {prediction.label}"
    return Finding(
        title=sentence(f"{attribute.name} predicts {what}"),
        told=f"From the {attribute.name} alone, without knowing anything else, a network may reach {accuracy:.0f} ±"
        f" {error:.0f}\u00a0% balanced accuracy: so does a histogram of each class, on held-out images. Guessing"
        f" reaches {100 * prediction.chance:.0f}\u00a0%.",
        cost=COSTS.get(attribute.name) or COSTS[attribute.kind],
        mend=MENDS.get(attribute.name) or MENDS[attribute.kind],
        charts=[chart(attribute.name, attribute, np.array(labels, object), prediction.label)],
        strips=[
            Strip(caption, [(paths[row], labels[row]) for row in rows.tolist()]) for caption, rows in ends(attribute)
        ],
    )


def differing(shifts: list[Shift], paths: list[str], labels: list[str], splits: list[str | None], mend: str) -> Finding:
    """Of one pair of splits."""
    pair = shifts[0].splits
    charts = []
    for shift in shifts:
        groups = np.array(splits, object)
        if shift.label is not None:
            groups[np.array(labels, object) != shift.label] = None
        title = f"{described(shift)}: {shift.measure} {shift.typical[0]} in {pair[0]}, {shift.typical[1]} in {pair[1]}"
        charts.append(chart(title, shift.attribute, groups, None, list(pair)))
    most = shifts[0]
    split_of = np.array(splits, object)
    typical_of = [typical(most.attribute, np.flatnonzero(split_of == split)).tolist() for split in pair]
    return Finding(
        title=f"{sentence(pair[0])} and {pair[1]} differ in {', '.join(described(shift) for shift in shifts)}",
        told=f"At least {100 * most.distance:.0f} % of the images in one split would have to be others for the"
        f" {described(most)} to be alike on both.",
        cost=SPLITS_COST,
        mend=mend,
        charts=charts,
        strips=[
            Strip(f"typical of {split}", [(paths[row], labels[row]) for row in rows])
            for split, rows in zip(pair, typical_of, strict=True)
        ],
    )


def grouped(found: Suggestion, name: str) -> Finding:
    straddling = f" {found.straddling:,} of them have images in several official splits." if found.straddling else ""
    return Finding(
        title="File names show groups",
        told=f"{found.groups:,} groups of images have a part of their file names in common, and images of one group"
        f" {found.reason} far more often than others.{straddling}",
        cost=GROUPS_COST,
        mend=f"Unless it is there already, set in params.yaml, under datasets.{name}.split:",
        code=f"group_by: {quoted(found.pattern)}",
        charts=[],
        strips=[
            Strip(key, [(path, path.rpartition("/")[2]) for path in paths[:PICTURED]]) for key, paths in found.examples
        ],
    )


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def ends(attribute: Attribute) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Images with the lowest and with the highest tenth of the numbers, or with the two most frequent texts."""
    values = attribute.values
    if attribute.levels:
        for level, name in enumerate(attribute.levels[:2]):
            yield name or "none", spread_out(np.flatnonzero(values == level))
        return
    order = np.argsort(values, kind="stable")
    tenth = max(1, len(order) // 10)
    for rows in (order[:tenth], order[-tenth:]):
        low, high = values[rows[0]], values[rows[-1]]
        yield f"{attribute.name} {tick(low)} to {tick(high)} {attribute.unit}".rstrip(), spread_out(rows)


def typical(attribute: Attribute, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of some images, those nearest to their median; for texts any."""
    if attribute.levels:
        return spread_out(rows)
    order = rows[np.argsort(attribute.values[rows], kind="stable")]
    middle = max(0, (len(order) - PICTURED) // 2)
    return order[middle : middle + PICTURED]


def spread_out(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most PICTURED rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(PICTURED, len(rows))).round().astype(int)]


def chart(
    title: str, attribute: Attribute, groups: NDArray[np.object_], first: str | None, names: list[str] | None = None
) -> Chart:
    """The distribution of an attribute in each of the groups, (N,): of `names`, or of those that differ most."""
    names = names or apart(attribute, groups, first)
    members = [attribute.values[groups == name] for name in names]
    if attribute.levels:
        more = len(attribute.levels) > NAMED
        shown = [*attribute.levels[:NAMED], *["others"] * more]
        rows = [Bars(name, parts(values, shown)) for name, values in zip(names, members, strict=True)]
        return Chart(title, rows, shown, is_number=False)
    low, high = np.percentile(attribute.values, (0.5, 99.5))
    rows = [Bars(name, bars(values, low, high)) for name, values in zip(names, members, strict=True)]
    return Chart(title, rows, [tick(low), attribute.unit or attribute.name, tick(high)], is_number=True)


def parts(values: NDArray[np.float64], shown: list[str]) -> list[tuple[float, str]]:
    """The shares of the first levels, the last one's with all that follow."""
    counts = np.bincount(values.astype(int).clip(0, len(shown) - 1), minlength=len(shown))
    shares = (counts / max(1, counts.sum())).tolist()
    return [(share, f"{text}: {100 * share:.1f} %") for share, text in zip(shares, shown, strict=True)]


def bars(values: NDArray[np.float64], low: float, high: float) -> list[tuple[float, str]]:
    counts, edges = np.histogram(values.clip(low, high), BINS, (low, high if high > low else low + 1))
    return [
        (count / max(1, counts.max()), f"{tick(start)} to {tick(end)}: {count:,} images")
        for count, start, end in zip(counts.tolist(), edges, edges[1:], strict=False)
    ]


def apart(attribute: Attribute, groups: NDArray[np.object_], first: str | None) -> list[str]:
    """At most CLASSES classes: `first`, and those with the lowest and the highest medians, in this order."""
    names = sorted(set(groups), key=lambda name: (float(np.median(attribute.values[groups == name])), name))
    if len(names) > CLASSES:
        names = [name for name in names if name != first]
        half = (CLASSES - (first is not None)) // 2
        names = [*names[:half], *names[-half:]]
    return [first, *(name for name in names if name != first)] if first is not None else names


def scores(predictions: Iterable[AttributePrediction]) -> list[AttributeScore]:
    """The table of all attributes: how well each predicts the class, and which class it tells apart best."""
    rows: dict[str, AttributeScore] = {}
    for found in predictions:
        accuracy = f"{100 * found.accuracy:.1f} ± {100 * found.error:.1f} %"
        if found.accuracy - found.chance < NOTHING * found.chance_error:
            accuracy = "as guessing"
        row = rows.setdefault(found.attribute.name, AttributeScore(found.attribute.name, accuracy, "", "", False))
        one = {} if found.label is None else {"one": accuracy, "label": found.label}
        rows[row.name] = row._replace(is_finding=row.is_finding or found.is_finding, **one)
    return list(rows.values())
