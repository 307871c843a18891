"""Write reports/index.html, a page that shows data, leader boards and learning curves, and a page for each experiment.

They are views, as MLflow's are: outputs of no stage, left out of git, and written again after each evaluation.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import os
import sys
from pathlib import Path
from typing import NamedTuple

from pipeline.config import params
from pipeline.dashboard import changes, curves, datasets, doubts, records
from pipeline.dashboard.board import Standing, standings
from pipeline.dashboard.experiment import FOLDER, write_experiment
from pipeline.dashboard.labels import write_labels
from pipeline.page.template import page_script, write_page
from pipeline.system.console import UserError, run, say

PAGE = Path("reports/index.html")
SPANNED = 4  # widths of the best interval that the scale of intervals goes down
# Title, which order comes first, what it means
COLUMNS = [
    ("experiment", "ascending", ""),
    (
        "accuracy",
        "descending",
        "Mean ± standard deviation over seeds or folds; below, Wilson's 95 % interval of the first training",
    ),
    (
        "95 % interval",
        "",
        "The accuracy and Wilson's interval, on one scale for all; what is far below the best is cut off",
    ),
    (
        "against the best",
        "ascending",
        "McNemar's exact test on the same validation images, by the first training of each",
    ),
    ("macro F1", "descending", ""),
    ("loss", "ascending", "Mean cross-entropy"),
    ("accuracy", "descending", "On test images: for the end"),
    ("parameters", "ascending", ""),
    ("trained in", "ascending", "Where it was trained on this machine"),
    ("repeat", "", ""),
]


class Board(NamedTuple):
    """What the page shows of one data set."""

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
        named = ", ".join(tied) if len(tied) <= 3 else f"{len(tied)} others"
        return f"{self.standings[0].record.name} is not distinguishable from {named}"

    def span(self, record: records.Record) -> tuple[float, float, float] | None:
        """Low end, high end and accuracy, as percentages of the range of all intervals of the board."""
        bounds, accuracy = record.interval("val"), record.metric("val", "accuracy")
        if bounds is None or accuracy is None:
            return None
        all_bounds = [found for standing in self.standings if (found := standing.record.interval("val"))]
        high, width = max(pair[1] for pair in all_bounds), all_bounds[0][1] - all_bounds[0][0]
        low = max(min(pair[0] for pair in all_bounds), high - SPANNED * width)
        place = [max(0.0, 100 * (value - low) / (high - low or 1)) for value in (*bounds, accuracy)]
        return place[0], place[1], place[2]


def main() -> int:
    command_line("index", __doc__).parse_args()
    if "DVC_STAGE" not in os.environ:
        notes = write()
        say(*notes, file=sys.stderr)
        say(f"open {PAGE} in a browser")
        return 0
    try:  # the view of a result fails no stage, and says what it has to say on the page
        write()
    except Exception as error:
        say(f"warning: {PAGE} is not written: {' '.join(str(error).split())[:200]}", file=sys.stderr)
    return 0


def write() -> list[str]:
    """Write all pages. Returns a line for each file that can't be read or doesn't belong here."""
    raw = params.read()
    known = params.validated(raw)
    notes: list[str] = []
    found = {name: records.read(name, config, notes) for name, config in known.experiments.items()}
    boards = [
        make_board(
            name, {each: found[each] for each, config in known.experiments.items() if config.dataset == name}, notes
        )
        for name in known.datasets
    ]
    notes += leftovers(set(known.experiments))
    there = [record for record in found.values() if record]
    standing_of = {standing.record.name: standing for board in boards for standing in board.standings}
    for record in there:
        if record.name in known.datasets:
            page = f"reports/{record.name}/index.html"
            notes.append(f"{record.name} is a data set too, and {page} its page: the experiment has none; rename it")
        else:
            write_experiment(record, standing_of.get(record.name), raw["experiments"][record.name])
    write_page(
        PAGE,
        "index.html",
        folder=FOLDER,
        name="All experiments",
        **page_script(FOLDER / "dashboard.js"),
        boards=boards,
        columns=COLUMNS,
        colors=curves.COLORS,
        commit=changes.since_last_commit(there),
        notes=notes,
    )
    return notes


def make_board(name: str, found: dict[str, records.Record | None], notes: list[str]) -> Board:
    data = datasets.summarize(name, notes)
    there = [record for record in found.values() if record]
    ranked = standings(there)
    without = {each: "not run yet" for each, record in found.items() if record is None}
    without |= {record.name: "trained, but not evaluated" for record in there if not record.metrics}
    in_order = [standing.record for standing in ranked] + [record for record in there if not record.metrics]
    return Board(data, ranked, curves.panels(in_order), without, doubted(name, data, ranked, notes))


def doubted(name: str, data: datasets.DataSummary, ranked: list[Standing], notes: list[str]) -> int:
    """How many labels are doubted, on a page of their own; none where the stage audit, which knows more, has one."""
    found = None if "audit.html" in data.pages else doubts.find(ranked)
    if found is None or not found.labels:
        return 0
    try:
        write_labels(name, found)
    except UserError as error:
        notes.append(str(error))
        return 0
    return len(found.labels)


def leftovers(known: set[str]) -> list[str]:
    """Results in `reports/` that no entry of params.yaml is for."""
    folders = sorted(file.parent.name for file in Path("reports").glob("*/metrics.json"))
    return [f"reports/{name} is of no experiment in params.yaml: left out" for name in folders if name not in known]


if __name__ == "__main__":
    run(main)
