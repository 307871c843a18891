"""The page of likely wrong labels by the predictions on validation images, whose ticks become lines to decide by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.dashboard.datasets import pages, pictures
from pipeline.dashboard.doubts import PICTURED, Doubts
from pipeline.page.findings import Section
from pipeline.page.issues import Issue
from pipeline.page.template import page_script, write_page
from pipeline.page.ticking import decided_by, script_data

FILE = "labels.html"
ISSUE = Issue(
    "Likely wrong labels",
    "Validation images of which the models are sure that they show another class. A tick gives them that class.",
    "probability",
)


def write_labels(name: str, doubts: Doubts) -> None:
    """Write `reports/<data set>/labels.html`. Raises UserError where images or decisions can't be read."""
    decisions, decided = decided_by(Path("data/decisions", f"{name}.csv"))
    paths = doubts.paths.to_pylist()
    classes = sorted({*doubts.labels, *doubts.suggested})
    shown = pictures(name, doubts.paths[:PICTURED])
    listed = list(range(len(paths)))
    sections = [
        Section(
            "wrong_label",
            ISSUE,
            len(paths),
            [[row] for row in listed],
            PICTURED,
            [1] * len(paths),
            [False] * len(paths),
        )
    ]
    columns: dict[str, list[Any]] = {
        "path": paths,
        "split": ["val"] * len(paths),
        "probability": doubts.probability,
        "label": [classes.index(label) for label in doubts.labels],
        "suggested": [classes.index(label) for label in doubts.suggested],
        **dict.fromkeys(("width", "height"), [0] * len(paths)),
        "issues": [[]] * len(paths),
        "decision": [decisions.get(path) for path in paths],
    }
    write_page(
        Path("reports", name, FILE),
        "labels.html",
        folder=Path(__file__).parent,
        name=name,
        **page_script(),
        data=script_data(classes, listed, columns, shown + [None] * (len(paths) - len(shown)), sections),
        judges=doubts.judges,
        pages=pages(name),
        labels=classes,
        sections=sections,
        whole=[],
        **decided,
        official_splits=[],
    )
