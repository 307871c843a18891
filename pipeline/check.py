"""Stage `check`: decode every image of a data set, say what is wrong with each, and measure their sizes.

usage: python -m pipeline.check DATASET
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline import params
from pipeline.console import UserError, only_argument, progress, run
from pipeline.images import decode, hashing, parallel, sheets
from pipeline.images.items import IMAGE_SUFFIXES, Content, Item, Problem, is_visible
from pipeline.images.sources import Source, open_source
from pipeline.manifest import write_manifest
from pipeline.outputs import whole, write_json

LISTED = 50  # broken images named when there are too many
SIDES = ("train", "val", "test")  # of equal images on several official sides, the last side keeps its own
BROKEN = {"unreadable", "truncated", "not_an_image", "empty_file", "too_large"}


def main() -> None:
    name = only_argument("DATASET")
    dataset = params.load().dataset(name)
    source = open_source(Path(dataset.source), dataset.classes)
    rows, thumbnails = inspect_all(source)
    compare(rows)
    stop_if_too_many_broken(name, rows, dataset.max_quarantined)

    summary = summarise(rows, source.classes)
    report = Path("reports", name)
    sheets.draw_sizes(report / "sizes.png", rows)
    with whole(report / "contact_sheets") as folder:
        folder.mkdir()
        for number, label in enumerate(source.classes):
            sheets.draw_contact_sheet(folder / sheets.file_name(number, label), thumbnails[label])
    write_json(report / "check.json", summary)
    write_manifest(Path("data/checked", f"{name}.parquet"), rows, source.classes)
    print(in_words(name, summary))


def inspect_all(source: Source) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    """One row per item of the source, in its order, and thumbnails of some usable images of each class."""
    shown = evenly_spaced(source.items)

    def tasks() -> Iterator[tuple[str, Content, bool]]:
        for item, content in source.read():
            yield item.path, content, item.path in shown

    def size(task: tuple[str, Content, bool]) -> int:
        return parallel.content_size(task[1])

    def crashed(task: tuple[str, Content, bool], problem: Problem) -> tuple[dict[str, Any], None]:
        return {**unusable_facts(task[1]), "issues": [problem.code], "reason": problem.reason}, None

    rows = []
    thumbnails = defaultdict(list)
    facts = parallel.ordered_map(inspect, tasks(), size, crashed)
    for item, (fact, thumbnail) in zip(
        source.items, progress(facts, total=len(source.items), unit=" images"), strict=True
    ):
        if item.label is None and not BROKEN.intersection(fact["issues"]):
            fact["issues"].append("no_label")
            fact["reason"] = "not in a class folder" if is_visible(item.path) else "hidden"
        elif thumbnail is not None and item.label is not None:
            thumbnails[item.label].append(thumbnail)
        rows.append({"path": item.path, "label": item.label, "official_split": item.split, **fact})
    return rows, thumbnails


def evenly_spaced(items: Iterable[Item]) -> set[str]:
    """Paths of the images that a contact sheet shows: at most sheets.PER_CLASS of each class, from first to last."""
    by_class = defaultdict(list)
    for item in items:
        by_class[item.label].append(item.path)
    return {
        paths[position]
        for paths in by_class.values()
        for position in np.linspace(0, len(paths) - 1, min(len(paths), sheets.PER_CLASS)).round().astype(int)
    }


def inspect(task: tuple[str, Content, bool]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The facts of one image and, if asked for, its thumbnail. Runs in a worker process."""
    path, content, with_thumbnail = task
    facts = unusable_facts(content)
    try:
        image, facts["format"], facts["issues"] = decode.decode(content, path)
    except decode.Unusable as error:
        return {**facts, "issues": [error.code], "reason": error.reason}, None
    facts.update(width=image.width, height=image.height, mode=image.mode, phash=hashing.phash(image))
    return facts, sheets.thumbnail(image) if with_thumbnail else None


def unusable_facts(content: Content) -> dict[str, Any]:
    """What is known of any content without decoding it."""
    data = b"" if isinstance(content, Problem) else content if isinstance(content, bytes) else content.tobytes()
    digest = None if isinstance(content, Problem) else hashlib.sha256(data).hexdigest()
    unknown = dict.fromkeys(("width", "height", "mode", "format", "phash", "reason"))
    return {**unknown, "bytes": len(data), "sha256": digest}


def compare(rows: list[dict[str, Any]]) -> None:
    """Find equal contents, add their issues, and give every row its status."""
    leaked = set()
    groups = defaultdict(list)
    for row in rows:
        if status(set(row["issues"])) != "quarantined":
            groups[row["sha256"]].append(row)
    for group in groups.values():
        if len(group) > 1:
            labels = {row["label"] for row in group}
            sides = {row["official_split"] or "train" for row in group}
            found = ["exact_duplicate"]
            found += ["label_conflict"] * (len(labels) > 1)
            found += ["split_leak"] * (len(sides) > 1)
            kept = max(sides, key=SIDES.index)
            for row in group:
                row["issues"] += found
                if (row["official_split"] or "train") != kept:
                    leaked.add(row["path"])
    for row in rows:
        row["status"] = "quarantined" if row["path"] in leaked else status(set(row["issues"]))


def status(issues: set[str]) -> str:
    """`quarantined` if the image can't be used, `warning` if it can but something is odd, else `ok`."""
    if issues & (BROKEN | {"no_label"}):
        return "quarantined"
    return "warning" if issues else "ok"


def is_clutter(row: dict[str, Any]) -> bool:
    """Whether a file is no image and does not say so either: README.md, Thumbs.db, macOS's ._001.jpg."""
    if not is_visible(row["path"]):
        return True
    named_as_image = PurePosixPath(row["path"]).suffix.lower() in IMAGE_SUFFIXES
    return not named_as_image and bool({"not_an_image", "empty_file"}.intersection(row["issues"]))


def stop_if_too_many_broken(name: str, rows: list[dict[str, Any]], most: float) -> None:
    images = [row for row in rows if not is_clutter(row)]
    if not images:
        raise UserError(f"{name}: none of {len(rows)} files is an image: see datasets.{name}.source in params.yaml")
    broken = [row for row in images if BROKEN.intersection(row["issues"])]
    if len(broken) <= most * len(images):
        return
    for row in broken[:LISTED]:
        print(f"{row['path']}: {', '.join(row['issues'])}: {row['reason']}", file=sys.stderr)
    if len(broken) > LISTED:
        print(f"… and {len(broken) - LISTED} more", file=sys.stderr)
    raise UserError(
        f"{name}: {len(broken)} of {len(images)} images are broken,"
        f" more than datasets.{name}.max_quarantined = {most:g} allows: mend or remove them, or raise it in params.yaml"
    )


def summarise(rows: list[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    import pandas as pd

    table = pd.DataFrame(rows)
    usable = table[table.status != "quarantined"]
    per_class = usable.label.value_counts()
    issues = Counter(issue for row in rows for issue in row["issues"])
    return {
        "files": len(rows),
        "classes": {label: int(per_class.get(label, 0)) for label in classes},
        "status": {status: int((table.status == status).sum()) for status in ("ok", "warning", "quarantined")},
        "issues": dict(sorted(issues.items())),
        **{side: describe(table[side]) for side in ("width", "height")},
    }


def describe(values: Any) -> dict[str, float | None]:
    """pandas' count, mean, std, min, quartiles and max, rounded to what a person reads."""
    numbers = values.dropna().astype(float).describe()
    return {name: None if np.isnan(value) else round(float(value), 6) for name, value in numbers.items()}


def in_words(name: str, summary: dict[str, Any]) -> str:
    status = ", ".join(f"{count} {status}" for status, count in summary["status"].items())
    lines = [f"{name}: {summary['files']} files: {status}"]
    lines += [f"  {count:>7} {issue}" for issue, count in summary["issues"].items()]
    lines.append(f"{'':<8}{'width':>14}{'height':>14}")
    for statistic in summary["width"]:
        both = (summary[side][statistic] for side in ("width", "height"))
        lines.append(
            f"{statistic:<8}" + "".join(f"{'-':>14}" if value is None else f"{value:>14.6f}" for value in both)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
