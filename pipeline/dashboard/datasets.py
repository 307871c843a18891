"""What the page says of a data set: what `check` found in it, how it is split, and some of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dashboard.records import as_mapping
from pipeline.dataset.packed import PackedImages
from pipeline.page.audited import picture
from pipeline.page.thumbnails import jpeg
from pipeline.system import readers
from pipeline.system.console import UserError

SAMPLES = 12  # images in the page, which stays small
PAGES = {
    "index.html": "What check found",
    "split.html": "How the images are split",
    "audit.html": "Likely wrong labels, outliers and near copies",
}


class DataSummary(NamedTuple):
    """What is known of a data set."""

    name: str
    status: dict[str, int]  # files that are ok, have a warning, are quarantined
    issues: dict[str, int]
    classes: dict[str, int]  # images of each
    splits: dict[str, int]
    pages: dict[str, str]  # as `pages` returns them
    samples: list[tuple[str, str]]  # class and thumbnail, an image of each class


def summarize(name: str, notes: list[str]) -> DataSummary:
    """`notes` gets a line for each file that is damaged; one that is not there has not been made yet."""
    folder = Path("reports", name)
    check, split = (read(folder / f"{stage}.json", f"{stage}@{name}", notes) for stage in ("check", "split"))
    try:
        samples = draw_samples(name)
    except UserError:  # not pulled, or not packed yet; the stages say more
        samples = []
    return DataSummary(
        name,
        counts(check, "status"),
        counts(check, "issues"),
        counts(check, "classes"),
        counts(split, "total"),
        pages(name),
        samples,
    )


def pages(name: str) -> dict[str, str]:
    """Titles of the pages of a data set that are there, by file."""
    return {file: title for file, title in PAGES.items() if Path("reports", name, file).exists()}


def read(file: Path, stage: str, notes: list[str]) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return readers.read_json(file, stage)
    except UserError as error:
        notes.append(str(error))
        return {}


def counts(values: dict[str, Any], key: str) -> dict[str, int]:
    return {name: count for name, count in as_mapping(values.get(key)).items() if type(count) is int}


def draw_samples(name: str) -> list[tuple[str, str]]:
    """The first image to train on of each class, of some classes, as the network gets it but for augmentation."""
    stage = f"split@{name}"
    table = readers.read_table(Path("data/splits", f"{name}.parquet"), {"path": str, "label": str, "split": str}, stage)
    train = table.filter(pc.equal(table["split"], "train"))
    labels = train["label"].combine_chunks()
    chosen = pc.unique(labels).sort()[:SAMPLES]
    rows = pc.index_in(chosen, value_set=labels)
    images = pictures(name, train["path"].take(rows))
    return [(label, image) for label, image in zip(chosen.to_pylist(), images, strict=True) if image]


def pictures(name: str, paths: pa.ChunkedArray) -> list[str | None]:
    """Thumbnails of packed images, in base64. None for a path that is not packed."""
    packed = PackedImages(Path("data/packed", name))
    rows = pc.index_in(paths, value_set=packed.index["path"]).fill_null(-1).to_numpy()
    return [jpeg(picture(packed.images[row])) if row >= 0 else None for row in rows]
