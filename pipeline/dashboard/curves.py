"""Learning curves as points of an SVG: all experiments of a data set in one chart, val solid and train dashed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.dashboard.records import Record

WIDTH, HEIGHT = 1000, 500  # units of the drawing, which the page stretches
MOST = 80  # points of a curve: more can't be told apart, and make the page large
COLORS = 8  # for the best experiments; all others are gray
LARGEST = 1e100  # value that is drawn
LOWEST = 1e-6  # loss that is drawn: a logarithm has no zero


class Curve(NamedTuple):
    """One experiment in one panel: the points of two polylines, either of which may be empty."""

    name: str
    color: str  # a class of the style sheet
    val: str
    train: str


class Panel(NamedTuple):
    """One chart. Ticks are labels with their places from 0 to 1, from the left and from the top."""

    title: str
    curves: list[Curve]
    x_ticks: list[tuple[str, float]]
    y_ticks: list[tuple[str, float]]


class Scale(NamedTuple):
    """The range of a vertical axis; of a logarithmic one, that of the logarithms."""

    low: float
    high: float
    is_logarithmic: bool = False

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From 0 at the top to 1 at the bottom. What lies below or above the range is outside."""
        shown = np.log10(np.maximum(values, LOWEST)) if self.is_logarithmic else values
        return (self.high - shown) / (self.high - self.low)

    def ticks(self) -> list[tuple[str, float]]:
        values = np.array(decades(self.low, self.high) if self.is_logarithmic else steps(self.low, self.high))
        return [(f"{value:.6g}", float(place)) for value, place in zip(values, self.places(values), strict=True)]


def panels(records: list[Record]) -> list[Panel]:
    """Accuracy and loss of experiments, which are given in the order of their colors."""
    drawn = [
        panel("Accuracy", records, "accuracy", accuracy_scale),
        panel("Loss, on a logarithmic scale", records, "loss", loss_scale),
    ]
    return [each for each in drawn if each.curves]


def accuracy_scale(values: NDArray[np.float64]) -> Scale:
    """The low accuracies of first epochs may lie outside: they would squeeze what tells experiments apart."""
    low = min(float(np.percentile(values, 5)), 0.98)
    return Scale(max(0.0, low - 0.05 * (1 - low)), 1.0 + 0.02 * (1 - low))


def loss_scale(values: NDArray[np.float64]) -> Scale:
    low, high = np.log10(np.maximum(np.percentile(values, (0, 99)), LOWEST)).tolist()
    return Scale(low - 0.05, max(high, low + 0.5) + 0.05, is_logarithmic=True)


def panel(title: str, records: list[Record], metric: str, scale_of: Callable[[NDArray[np.float64]], Scale]) -> Panel:
    splits = {split: [series(record, f"{split}_{metric}") for record in records] for split in ("val", "train")}
    every = np.concatenate([values for lists in splits.values() for _, values in lists] or [np.empty(0)])
    if not len(every):
        return Panel(title, [], [], [])
    scale, last = scale_of(every), max(len(record.history) for record in records)
    curves = [
        Curve(
            record.name,
            f"c{number}" if number < COLORS else "other",
            *(points(*splits[split][number], last, scale) for split in ("val", "train")),
        )
        for number, record in enumerate(records)
        if record.history
    ]
    return Panel(title, curves, epochs(last), scale.ticks())


def series(record: Record, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs and values, as far as these are finite; of many, some that are evenly spaced and the last."""
    values = np.array([row.get(column, math.nan) for row in record.history], np.float64)
    rows = np.flatnonzero(np.abs(values) < LARGEST)  # NaN is not
    if len(rows) > MOST:
        rows = rows[np.linspace(0, len(rows) - 1, MOST).round().astype(int)]
    return rows.astype(np.float64) + 1, values[rows]


def points(at: NDArray[np.float64], values: NDArray[np.float64], last: int, scale: Scale) -> str:
    across = WIDTH * (at - 1) / max(1, last - 1)
    down = np.clip(HEIGHT * scale.places(values), -HEIGHT, 2 * HEIGHT)
    drawn = [f"{x:.0f},{y:.0f}" for x, y in zip(across, down, strict=True)]
    return " ".join(drawn * 2 if len(drawn) == 1 else drawn)  # a line from a point to itself is a dot


def epochs(last: int) -> list[tuple[str, float]]:
    ticks = sorted({1, *(int(tick) for tick in steps(1, last) if tick == int(tick) and tick >= 1), last})
    ticks = [tick for tick in ticks if tick in (1, last) or min(tick - 1, last - tick) > last / 12]
    return [(str(tick), (tick - 1) / max(1, last - 1)) for tick in ticks]


def steps(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about five."""
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range of logarithms; powers alone where there are many."""
    factors = (1, 2, 5) if high - low < 2 else (1, 3) if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]
