"""What the page shows of one data set: the data, its leader board, learning curves and doubted labels."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.dashboard import curves, datasets, doubts
from pipeline.dashboard.labels import write_labels
from pipeline.dashboard.records import Record
from pipeline.dashboard.standings import Standing, rank
from pipeline.system.console import UserError

NAMED = 3  # experiments in a sentence; more are counted
SPANNED = 4  # times the width of the best interval: how far the scale of intervals goes down


class Column(NamedTuple):
    """A heading of the leader board."""

    title: str
    first: str = ""  # the order that a click makes first; empty where there is nothing to sort
    meaning: str = ""


COLUMNS = [
    Column("experiment", "ascending"),
    Column("accuracy", "descending", "Mean ± standard deviation over seeds or folds; below, Wilson's 95 % interval"),
    Column("95 % interval", meaning="On one scale for all; what is far below the best is cut off"),
    Column(
        "against the best",
        "ascending",
        "McNemar's exact test on the same validation images; of several seeds the first",
    ),
    Column("macro F1", "descending"),
    Column("loss", "ascending", "Mean cross-entropy"),
    Column("accuracy", "descending", "On test images: for the end"),
    Column("parameters", "ascending"),
    Column("trained in", "ascending", "Where it was trained on this machine"),
    Column("repeat"),
]


class Board(NamedTuple):
    data: datasets.DataSummary
    standings: list[Standing]
    panels: list[curves.Panel]
    waiting: dict[str, str]  # experiments without results, and why
    doubts: int  # images whose label is doubted

    @property
    def tied(self) -> str:
        """Which experiments can't be told from the best, in words; empty where all can."""
        tied = [standing.record.name for standing in self.standings if standing.is_tied]
        if not tied:
            return ""
        named = ", ".join(tied) if len(tied) <= NAMED else f"{len(tied)} others"
        return f"{self.standings[0].record.name} is not distinguishable from {named}"

    def span(self, record: Record) -> tuple[float, float, float] | None:
        """Low end, high end and accuracy, as percentages of the range of all intervals."""
        bounds, accuracy = record.interval("val"), record.metric("val", "accuracy")
        if bounds is None or accuracy is None:
            return None
        every = [found for standing in self.standings if (found := standing.record.interval("val"))]
        high, width = max(pair[1] for pair in every), every[0][1] - every[0][0]
        low = max(min(pair[0] for pair in every), high - SPANNED * width)
        start, end, middle = (max(0.0, 100 * (value - low) / (high - low or 1)) for value in (*bounds, accuracy))
        return start, end, middle


def make_board(name: str, found: dict[str, Record | None], notes: list[str]) -> Board:
    """Of the data set `name`, whose experiments are `found`. `notes` gets a line for each file that can't be read."""
    data = datasets.summarize(name, notes)
    there = [record for record in found.values() if record]
    standings = rank([record for record in there if record.metrics])
    unranked = [record for record in there if not record.metrics]
    waiting = {each: "not run yet" for each, record in found.items() if record is None}
    waiting |= {record.name: "trained, but without metrics that can be read" for record in unranked}
    panels = curves.panels([*(standing.record for standing in standings), *unranked])
    return Board(data, standings, panels, waiting, doubted(data, standings, notes))


def doubted(data: datasets.DataSummary, standings: list[Standing], notes: list[str]) -> int:
    """How many labels are doubted, on a page of their own; none where the stage audit, which knows more, has one."""
    found = None if "audit.html" in data.pages else doubts.find(standings)
    if found is None or not found.labels:
        return 0
    try:
        write_labels(data.name, found)
    except UserError as error:
        notes.append(str(error))
        return 0
    return len(found.labels)
