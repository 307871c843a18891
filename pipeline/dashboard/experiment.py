"""The page of one experiment, beside its files in `reports/<experiment>/`, to which it links."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dashboard import curves
from pipeline.dashboard.records import Record, as_mapping
from pipeline.dashboard.standings import Standing
from pipeline.images.files import utf8
from pipeline.page.template import page_script, write_page
from pipeline.system.csv_cells import unescape_formula
from pipeline.tracking.results import flat

FOLDER = Path(__file__).parent
VIEW = "index.html"
# What the page shows of the folder, in its order. A file that is not there is left out
PARTS = {
    "What the network sees": {
        "train_batch.png": "The first batch as it was trained on: augmented, normalization undone"
    },
    "By class": {"per_class.csv": "", "curves.png": "ROC and precision-recall curves"},
    "Confusions": {"confusions.csv": "", "confusion_matrix.png": "Confusion matrix"},
    "Calibration": {"reliability.png": "How often it is right, by how sure it is"},
    "Images": {
        "gallery_worst.png": "Of which it is most wrong",
        "gallery_uncertain.png": "Of which it is least certain",
        "samples.png": "Test images, evenly spaced: green where it is right, red where it is wrong",
    },
    "Slices": {"slices.csv": ""},
    "By epoch": {"history.csv": ""},
}
COUNTS = {"images", "count", "epoch"}
NAMES = {"class", "actual", "predicted", "attribute", "slice"}  # columns of text, even where it looks like numbers
ROWS = 200  # of a table in the page; its file has all


class Table(NamedTuple):
    """The rows of one split in a CSV file, as far as the page shows them."""

    file: str
    split: str  # val, test, or empty where the file is not about splits
    head: list[str]
    rows: list[list[str]]
    total: int


class Part(NamedTuple):
    title: str
    tables: list[Table]
    figures: dict[str, str]  # caption by file


class MetricRow(NamedTuple):
    """One metric on one split, with what is known of its chance; None where there is none."""

    value: object
    low: object
    high: object
    mean: object
    sd: object


def write_experiment(record: Record, standing: Standing | None, config: dict[str, Any]) -> None:
    """`standing` is None for one that was trained, but not evaluated; `config` is its entry in params.yaml."""
    folder = Path("reports", record.name)
    shown = (utf8(file.name) for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    files = sorted(name for name in shown if name != VIEW)
    write_page(
        folder / VIEW,
        "experiment.html",
        folder=FOLDER,
        name=record.name,
        **page_script(FOLDER / "dashboard.js"),
        record=record,
        standing=standing,
        config=as_yaml({record.name: config}),
        metrics=metric_rows(record),
        panels=curves.panels([record]),
        parts=list(parts(folder, files)),
        provenance=[(key, str(value)) for key, value in flat({**record.provenance, "params": {}})],
        names=NAMES,
        files=files,
    )


def as_yaml(values: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(pure=True)
    yaml.default_flow_style = None  # what holds no other mapping or list is written in one line
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def metric_rows(record: Record) -> dict[str, list[MetricRow]]:
    """All that metrics.json has, by metric: on val, then on test."""
    splits = [as_mapping(record.metrics.get(split)) for split in ("val", "test")]
    endings = tuple(f"_{field}" for field in MetricRow._fields[1:])
    names = dict.fromkeys(name for split in splits for name in split if not name.endswith(endings))
    return {
        name: [MetricRow(split.get(name), *(split.get(name + end) for end in endings)) for split in splits]
        for name in names
    }


def parts(folder: Path, files: list[str]) -> Iterator[Part]:
    for title, wanted in PARTS.items():
        there = {file: caption for file, caption in wanted.items() if file in files}
        tables = [table for file in there if file.endswith(".csv") for table in read_tables(folder / file)]
        figures = {file: caption for file, caption in there.items() if file.endswith(".png")}
        if tables or figures:
            yield Part(title, tables, figures)


def read_tables(file: Path) -> Iterator[Table]:
    """One table, or one for each split where the first column is that. A file that is no table has none."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            head, *rows = csv.reader(lines)
    except (ValueError, csv.Error):
        return
    rows = [row for row in rows if len(row) == len(head)]
    if head[:1] != ["split"]:
        yield make_table(file.name, "", head, rows)
        return
    for split in dict.fromkeys(row[0] for row in rows):
        yield make_table(file.name, split, head[1:], [row[1:] for row in rows if row[0] == split])


def make_table(file: str, split: str, head: list[str], rows: list[list[str]]) -> Table:
    columns = [readable(name, [row[place] for row in rows[:ROWS]]) for place, name in enumerate(head)]
    return Table(file, split, head, [list(row) for row in zip(*columns, strict=True)], len(rows))


def readable(name: str, cells: list[str]) -> list[str]:
    """Names without the quote that keeps spreadsheets from running them; numbers but counts with four decimals."""
    if name in NAMES:
        return [unescape_formula(cell) for cell in cells]
    return cells if name in COUNTS else [rounded(cell) for cell in cells]


def rounded(cell: str) -> str:
    try:
        return f"{float(cell):.4f}"
    except ValueError:
        return cell
