"""Write reports/index.html, a page that shows data, leader boards and learning curves, and a page for each experiment.

They are views, as MLflow's are: outputs of no stage, left out of git, and written again after each evaluation.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import os
import sys
from pathlib import Path

from pipeline.config import params
from pipeline.dashboard import changes, curves, records
from pipeline.dashboard.board import COLUMNS, make_board
from pipeline.dashboard.experiment import FOLDER, write_experiment
from pipeline.images.files import utf8
from pipeline.page.template import page_script, write_page
from pipeline.system.console import one_line, run, say

PAGE = Path("reports/index.html")


def main() -> None:
    command_line("index", __doc__).parse_args()
    if "DVC_STAGE" not in os.environ:
        notes = write()
        say(*notes, file=sys.stderr)
        say(f"open {PAGE} in a browser")
        return
    try:  # the view of a result fails no stage, and says what it has to say on the page
        write()
    except Exception as error:
        say(f"warning: {PAGE} is not written: {one_line(error)}", file=sys.stderr)


def write() -> list[str]:
    """Write all pages. Returns a line for each file that can't be read or doesn't belong here."""
    raw = params.read()
    known = params.validated(raw)
    notes: list[str] = []
    found = {name: records.read(name, config, notes) for name, config in known.experiments.items()}
    boards = []
    for name in known.datasets:
        of_dataset = {each: found[each] for each, config in known.experiments.items() if config.dataset == name}
        boards.append(make_board(name, of_dataset, notes))
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


def leftovers(known: set[str]) -> list[str]:
    """Results in `reports/` that no entry of params.yaml is for."""
    folders = sorted(utf8(file.parent.name) for file in Path("reports").glob("*/metrics.json"))
    return [f"reports/{name} is of no experiment in params.yaml: left out" for name in folders if name not in known]


if __name__ == "__main__":
    run(main)
