"""Stage `check`: decode every image of a data set, say what is wrong with each, and measure their sizes."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipeline.checking import contact_sheets, label_list, summaries, usage
from pipeline.checking.describe import describe
from pipeline.checking.inspected import Inspected
from pipeline.checking.overview import Overview
from pipeline.checking.validation import Validation
from pipeline.config import params
from pipeline.images.folder_problems import first_problem
from pipeline.images.labeled import Labeled
from pipeline.images.sources import Source, open_source
from pipeline.images.tables import SPLITS, STATUSES, write_tables
from pipeline.system import workers
from pipeline.system.console import UserError, aligned, printable, say
from pipeline.system.outputs import atomic_write, write_json

LISTED = 50  # broken images named when there are too many
CLASSES_AT_ONCE = 500  # whose thumbnails are in memory, 0.9 MB each


def main(name: str) -> None:
    workers.warm_up("pipeline.checking.metadata")
    dataset = params.load().dataset(name)
    source: Source = open_source(dataset.source, dataset.check.classes)
    listed = None
    if dataset.check.labels:
        source = Labeled(source, dataset.source, dataset.check.labels, dataset.check.classes)
        listed = label_list.compare(name, source, dataset.check.max_quarantined)
    elif problem := first_problem(source.folders):
        raise UserError(f"{dataset.source}: {problem}")
    inspected = Inspected(name, source, dataset.check.max_pixels)
    validation = Validation(inspected, dataset.check)
    stop_if_too_many_broken(name, inspected, validation, dataset.check.max_quarantined)

    classes = [label for label in source.classes if validation.has_usable(label)]
    if not classes:
        left_out = summaries.counted(usage.count(inspected, validation, source.folders).left_out)
        raise UserError(
            f"{name}: none of {validation.count} files is a usable image with a class: {left_out}; expected"
            f" {dataset.source}/CLASS/FILE, or a list of labels, datasets.{name}.check.labels in params.yaml"
        )
    summary = summarize(inspected, validation, classes, source)
    if listed:
        summary["label_list"] = listed
    report = Path("reports", name)
    draw_contact_sheets(report / "contact_sheets", inspected, classes)
    checked = Path("data/checked", f"{name}.parquet")
    tables = validation.complete(inspected.tables())
    write_tables(checked, tables, classes, max_pixels=dataset.check.max_pixels)
    overview = Overview(checked)
    write_json(report / "check.json", {**summary, **overview.summary()})
    inspected.remove()
    say(*in_words(name, summary), *overview.in_words(dataset.split.group_by))


def stop_if_too_many_broken(name: str, inspected: Inspected, validation: Validation, most: float) -> None:
    """Raises UserError if there is no image at all, or if more than this fraction of them is broken."""
    listed: list[str] = []
    broken = clutter = 0
    for row in usage.unusable_rows(inspected, validation):
        reason = usage.why(row)
        if reason in ("hidden", "clutter"):
            clutter += 1
        elif reason != "no_label":
            broken += 1
            listed += [f"{row['path']}: {', '.join(row['issues'])}: {row['reason']}"] * (broken <= LISTED)
    images = validation.count - clutter
    if not images:
        raise UserError(
            f"{name}: none of {validation.count} files is an image: see datasets.{name}.source in params.yaml"
        )
    if broken <= most * images:
        return
    say(*listed, file=sys.stderr)
    if broken > LISTED:
        say(f"… and {broken - LISTED} more", file=sys.stderr)
    raise UserError(
        f"{name}: {broken} of {images} images are broken,"
        f" more than datasets.{name}.check.max_quarantined = {most:g} allows: mend or remove them, or raise it"
    )


def draw_contact_sheets(path: Path, inspected: Inspected, classes: list[str]) -> None:
    with atomic_write(path) as folder:
        folder.mkdir()
        for start in range(0, len(classes), CLASSES_AT_ONCE):
            some = classes[start : start + CLASSES_AT_ONCE]
            tiles: dict[str, list[NDArray[np.uint8]]] = {label: [] for label in some}
            for table in inspected.tables(["label", "thumbnail"]):
                wanted = pc.and_(pc.is_valid(table["thumbnail"]), pc.is_in(table["label"], pa.array(some)))
                for row in table.filter(wanted).to_pylist():
                    tiles[row["label"]].append(np.asarray(Image.open(io.BytesIO(row["thumbnail"]))))
            for number, label in enumerate(tiles, start):
                contact_sheets.draw_contact_sheet(folder / contact_sheets.file_name(number, label), tiles[label])


def summarize(inspected: Inspected, validation: Validation, classes: list[str], source: Source) -> dict[str, Any]:
    """The content of check.json. `classes` are those of the source that have an image that can be decoded.

    It holds no lists: DVC, which takes the file for one of its plots, would want tables in them.
    """
    status = validation.status()
    files = validation.count_labels(np.ones(validation.count, bool))
    missing = validation.missing_in_official_splits(classes)
    folders = source.folders
    return {
        "files": validation.count,
        **usage.count(inspected, validation, folders)._asdict(),
        "empty_folders": dict.fromkeys(folders.empty, 0),
        "official_splits": {"/".join(folder): split for folder, split in folders.splits.items()},
        "classes": validation.images_per_class(classes),
        "classes_by_split": validation.images_per_class_and_split(classes),
        "classes_left_out": {label: files[label] for label in source.classes if not validation.has_usable(label)},
        "classes_missing": {split: dict.fromkeys(labels, 0) for split, labels in missing.items()},
        "classes_respelled": folders.respelled,
        "status": {name: int((status == name).sum()) for name in STATUSES},
        "issues": {code: int(which.sum()) for code, which in sorted(validation.issues.items()) if which.any()},
        **{side: rounded(describe(inspected.numbers(side))) for side in ("width", "height")},
    }


def rounded(numbers: dict[str, float]) -> dict[str, float | None]:
    """The numbers with 6 decimals; None instead of NaN, which JSON lacks."""
    return {name: None if np.isnan(number) else round(number, 6) for name, number in numbers.items()}


def in_words(name: str, summary: dict[str, Any]) -> list[str]:
    status = ", ".join(f"{count} {status}" for status, count in summary["status"].items())
    lines = [f"{name}: {summary['files']} files: {status}"]
    lines += [f"  {count:>7} {issue}" for issue, count in summary["issues"].items()]
    lines += summaries.of_files(summary)
    classes = summary["classes"]
    title = f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}"
    lines += class_table(title, summary) if summary["classes_by_split"] else [f"{title}: {summaries.counted(classes)}"]
    lines += summaries.of_classes(summary)
    lines.append(f"{'':<8}{'width':>14}{'height':>14}")
    for statistic in summary["width"]:
        both = (summary[side][statistic] for side in ("width", "height"))
        lines.append(
            f"{statistic:<8}" + "".join(f"{'-':>14}" if value is None else f"{value:>14.6f}" for value in both)
        )
    return lines


def class_table(title: str, summary: dict[str, Any]) -> list[str]:
    """A row for each class, a column for each official split in use, and their sums."""
    splits = [split for split in SPLITS if summary["used"][split]]
    counts = {label: [row[split] for split in splits] for label, row in summary["classes_by_split"].items()}
    counts[""] = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [[title, *splits, "all"], *([printable(label), *row, sum(row)] for label, row in counts.items())]
    head, *lines, total = aligned(rows, right=range(1, len(rows[0])))
    return [head, *summaries.few(lines), total]


if __name__ == "__main__":
    run_stage("check", main, "DATASET", __doc__)
