"""Stage `check`: decode every image of a data set, say what is wrong with each, and measure their sizes."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipeline.checking import contact_sheets, label_list
from pipeline.checking.describe import describe
from pipeline.checking.inspected import Inspected
from pipeline.checking.overview import Overview
from pipeline.checking.validation import Validation
from pipeline.config import params
from pipeline.images.items import is_clutter
from pipeline.images.labeled import Labeled
from pipeline.images.sources import Source, open_source
from pipeline.images.tables import STATUSES, write_tables
from pipeline.system import workers
from pipeline.system.console import UserError, say
from pipeline.system.outputs import atomic_write, write_json

LISTED = 50  # broken images named when there are too many
NAMED = 20  # classes named in a line, at most


def main(name: str) -> None:
    workers.warm_up("pipeline.checking.metadata")
    dataset = params.load().dataset(name)
    source: Source = open_source(dataset.source, dataset.check.classes)
    listed = None
    if dataset.check.labels:
        source = Labeled(source, dataset.source, dataset.check.labels, dataset.check.classes)
        listed = label_list.compare(name, source, dataset.check.max_quarantined)
    inspected = Inspected(name, source, dataset.check.max_pixels)
    validation = Validation(inspected, dataset.check)
    stop_if_too_many_broken(name, inspected, validation, dataset.check.max_quarantined)

    classes = [label for label in source.classes if validation.has_usable(label)]
    summary = summarize(inspected, validation, classes, source.classes)
    if listed:
        summary["label_list"] = listed
    report = Path("reports", name)
    draw_contact_sheets(report / "contact_sheets", inspected, classes)
    checked = Path("data/checked", f"{name}.parquet")
    write_tables(checked, validation.complete(inspected.tables()), classes)
    overview = Overview(checked)
    write_json(report / "check.json", {**summary, **overview.summary()})
    inspected.remove()
    say(*in_words(name, summary), *overview.in_words(dataset.split.group_by))


def stop_if_too_many_broken(name: str, inspected: Inspected, validation: Validation, most: float) -> None:
    """Raises UserError if there is no image at all, or if more than this fraction of them is broken."""
    listed: list[str] = []
    broken = clutter = 0
    for row in unusable_rows(inspected, validation):
        if is_clutter(row["path"], row["issues"]):
            clutter += 1
        elif "no_label" not in row["issues"]:
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


def unusable_rows(inspected: Inspected, validation: Validation) -> Iterator[dict[str, Any]]:
    start = 0
    for table in inspected.tables(["path", "issues", "reason"]):
        yield from table.filter(validation.unusable[start : start + len(table)]).to_pylist()
        start += len(table)


def draw_contact_sheets(path: Path, inspected: Inspected, classes: list[str]) -> None:
    tiles: dict[str, list[NDArray[np.uint8]]] = {label: [] for label in classes}
    for table in inspected.tables(["label", "thumbnail"]):
        for row in table.filter(pc.is_valid(table["thumbnail"])).to_pylist():
            tiles[row["label"]].append(np.asarray(Image.open(io.BytesIO(row["thumbnail"]))))
    with atomic_write(path) as folder:
        folder.mkdir()
        for number, label in enumerate(classes):
            contact_sheets.draw_contact_sheet(folder / contact_sheets.file_name(number, label), tiles[label])


def summarize(inspected: Inspected, validation: Validation, classes: list[str], found: list[str]) -> dict[str, Any]:
    """The content of check.json. `classes` are those `found` in the source that have an image that can be decoded.

    It holds no lists: DVC, which takes the file for one of its plots, would want tables in them.
    """
    status = validation.status()
    files = validation.count_labels(np.ones(validation.count, bool))
    missing = validation.missing_in_official_splits(classes)
    return {
        "files": validation.count,
        "classes": validation.images_per_class(classes),
        "classes_left_out": {label: files[label] for label in found if not validation.has_usable(label)},
        "classes_missing": {split: dict.fromkeys(labels, 0) for split, labels in missing.items()},
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
    classes = summary["classes"]
    lines.append(f"{len(classes)} classes: {shortened([f'{label} ({count})' for label, count in classes.items()])}")
    if left_out := summary["classes_left_out"]:
        lines.append(f"not a class, because none of its images can be decoded: {shortened(list(left_out))}")
    for split, missing in summary["classes_missing"].items():
        lines.append(f"without a usable image in the official {split} split: {shortened(list(missing))}")
    lines.append(f"{'':<8}{'width':>14}{'height':>14}")
    for statistic in summary["width"]:
        both = (summary[side][statistic] for side in ("width", "height"))
        lines.append(
            f"{statistic:<8}" + "".join(f"{'-':>14}" if value is None else f"{value:>14.6f}" for value in both)
        )
    return lines


def shortened(names: list[str]) -> str:
    """The names, separated by commas; of many only the first ones and the last."""
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], "…", names[-1]]
    return ", ".join(names)


if __name__ == "__main__":
    run_stage("check", main, "DATASET", __doc__)
