"""Stage `report`: one page, complete in itself, that shows what check found, for a person to decide on."""

from __future__ import annotations

from pipeline.system.entry import run_stage

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checking import summaries
from pipeline.checking.overview import Overview
from pipeline.config import params
from pipeline.images.sources import open_source
from pipeline.images.tables import SPLITS, STATUSES, read_columns
from pipeline.page import charts, findings, overall
from pipeline.page.template import page_script, write_page
from pipeline.page.thumbnails import thumbnails
from pipeline.page.ticking import decided_by, script_data
from pipeline.system import readers, workers
from pipeline.system.console import say

SHOWN = ["path", "status", "issues", "reason", "width", "height", "bytes", "format", "mode"]
MEASURED = ["brightness", "contrast", "sharpness"]
CHECKED = [*SHOWN, *MEASURED, "label", "official_split", "group", "pixel_hash"]


def main(name: str) -> None:
    workers.warm_up("pipeline.page.thumbnails")
    dataset = params.load().dataset(name)
    table = Path("data/checked", f"{name}.parquet")
    checked, classes = read_columns(table, CHECKED)
    decisions, decided = decided_by(Path("data/decided", f"{name}.csv"))

    others = set(pc.unique(checked["label"]).drop_null().to_pylist()).difference(classes)
    labels = [*classes, *sorted(others)]  # none of the others' images can be decoded

    sections = findings.find(checked)
    rows = list(dict.fromkeys(row for section in sections for entry in section.entries for row in entry))
    images = metadata(checked.take(pa.array(rows, pa.int64())), labels, decisions)
    pictured = {
        row
        for section in sections
        for entry in section.entries[: section.pictured]
        for row in entry[: findings.MEMBERS]
    }
    sized = zip(rows, images["path"], images["width"], strict=True)
    wanted = {path for row, path, width in sized if row in pictured and width}
    overview = Overview(table)
    whole = overall.findings(overview)
    wanted |= {path for finding in whole for strip in finding.strips for path, _ in strip.pictures}
    source = open_source(dataset.source, dataset.check.classes)

    pictures = thumbnails(source, wanted)
    path = Path("reports", name, "index.html")
    write_page(
        path,
        "page.html",
        name=name,
        **page_script(),
        data=script_data(labels, rows, images, [pictures.get(path) for path in images["path"]], sections),
        classes=classes,
        labels=labels,
        sections=sections,
        whole=whole,
        pictures=pictures,
        scores=overall.scores(overview.predictions),
        chance=overview.predictions[0].chance if overview.predictions else None,
        status={status: pc.sum(pc.equal(checked["status"], status)).as_py() or 0 for status in STATUSES},
        **decided,
        sizes=charts.sizes(checked),
        histograms=charts.histograms(checked),
        official_splits=[split for split in SPLITS if pc.index(checked["official_split"], split).as_py() >= 0],
        by_class=charts.by_class(checked, labels),
        notes=notes(name),
    )
    say(f"{name}: {len(checked)} files, {len(whole) + len(sections)} kinds of findings: open {path} in a browser")


def notes(name: str) -> list[str]:
    """What `check` said of files and classes, as sentences. Raises UserError for a damaged check.json."""
    file, stage = Path("reports", name, "check.json"), f"check@{name}"
    summary = readers.read_json(file, stage)
    try:
        lines = [*summaries.of_files(summary), *summaries.of_classes(summary)]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise readers.damaged(file, "it is not what check writes", stage) from None
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def metadata(table: pa.Table, labels: list[str], decisions: dict[str, list[str]]) -> dict[str, list[Any]]:
    """What the page shows of each listed image, as columns. A class is given as its position in `labels`."""
    columns: dict[str, list[Any]] = {column: table[column].to_pylist() for column in SHOWN}
    columns["label"] = charts.positions(table["label"], labels).tolist()
    columns["official_split"] = table["official_split"].to_pylist()
    for column in (*MEASURED, "aspect_ratio"):
        columns[column] = [float(f"{value:.3g}") for value in findings.measure(table, column)]
        columns[column] = [None if value != value else value for value in columns[column]]  # NaN is no JSON
    columns["decision"] = [decisions.get(path) for path in columns["path"]]
    return columns


if __name__ == "__main__":
    run_stage("report", main, "DATASET", __doc__)
