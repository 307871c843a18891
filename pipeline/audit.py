"""Stage `audit`: likely wrong labels, outliers and near copies, by the features that the stage `features` computed.

It changes nothing: a person's ticks on its page become lines of the decision file.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.auditing import copies, labels, neighbors
from pipeline.auditing.projection import project
from pipeline.config import params
from pipeline.dataset.packed import PackedDataset
from pipeline.images.tables import SPLITS, read_columns
from pipeline.page.audited import write_audit
from pipeline.splitting.groups import path_keys, value_components
from pipeline.system import readers
from pipeline.system.console import UserError, say
from pipeline.system.outputs import atomic_write, write_json

if TYPE_CHECKING:
    from pipeline.config.datasets import Split

KINDS = ("wrong_label", "copy_across_splits", "near_copy", "outlier")
DIGITS = 4  # after the point, of what is written: later ones depend on the processor


def main(name: str) -> None:
    everything = params.load()
    model = everything.features_of(name).network.model
    packed = PackedDataset.of(name)
    rows = np.sort(packed.positions)
    images = packed.table.loc[rows, ["path", "label", "split"]].reset_index(drop=True)
    groups = group(name, images.path, everything.dataset(name).split)
    points = project(read_features(name, packed), rows)

    judged, rare = judge(name, points, packed.labels[rows], groups, packed.classes)
    images["suggested"] = np.array(packed.classes, object)[judged.suggested]
    images["margin"], images["wrong_label"] = judged.margin.round(DIGITS), judged.wrong
    nearest = neighbors.nearest(points, neighbors.COUNT)
    images["distance"] = neighbors.distances(points, nearest).astype(float).round(DIGITS)
    images["outlier"] = neighbors.far(images.distance.to_numpy())
    pairs = describe(copies.find(packed.images, rows, nearest, groups), images)

    summary = {
        "images": len(images),
        "out_of_fold_accuracy": round(judged.accuracy, DIGITS),
        "wrong_label": int(images.wrong_label.sum()),
        "outlier": int(images.outlier.sum()),
        "copy_across_splits": int(pairs.across.sum()),
        "near_copy": int((~pairs.across).sum()),
    }
    report = Path("reports", name)
    write_table(report / "audit.parquet", images)
    write_table(report / "near_copies.parquet", named(pairs, images))
    write_json(report / "audit.json", summary)
    about = {**summary, "model": model, "rare": rare}
    page = write_audit(name, about, packed.classes, images, pairs, packed.images, rows)
    say(*in_words(name, about, page))


def read_features(name: str, packed: PackedDataset) -> NDArray[np.float32]:
    """What the stage `features` wrote, (N, F), as a memory map. Raises UserError unless it is of these images."""
    file, stage = Path("data/features", f"{name}.npy"), f"features@{name}"
    try:
        features: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise readers.missing(file, stage) from None
    except (ValueError, EOFError) as error:
        raise readers.damaged(file, error, stage) from None
    if features.ndim != 2 or len(features) != len(packed.images) or features.dtype != np.float32:
        found = " × ".join(map(str, features.shape))
        raise readers.damaged(file, f"found {found}; expected a row for each of {len(packed.images)} images", stage)
    return features


def group(name: str, paths: pd.Series, split: Split) -> NDArray[np.int64]:
    """The number of the group of each path, (N,): of copies that hashes find, of a list, and of `group_by`."""
    columns = ["path", "pixel_hash", "group", "listed_group"]
    checked, _ = read_columns(Path("data/checked", f"{name}.parquet"), columns)
    table = checked.to_pandas()
    keys = pd.Series(path_keys(name, table.path, split.group_by), dtype=object)
    numbers = pd.Series(value_components(table.pixel_hash, table.group, table.listed_group, keys), table.path)
    return numbers.loc[paths].to_numpy()


def judge(
    name: str, points: NDArray[np.float32], numbers: NDArray[np.int64], groups: NDArray[np.int64], classes: list[str]
) -> tuple[labels.Judged, list[str]]:
    """What is thought of each label, and the classes that have too few images to say.

    Raises UserError where fewer than two classes have enough.
    """
    enough = labels.large_enough(numbers, groups)
    rare = [label for number, label in enumerate(classes) if number not in enough and number in numbers]
    if len(enough) < 2:
        raise UserError(
            f"{name}: labels can't be judged: {len(enough)} classes have images of {labels.FOLDS} groups or more;"
            " expected two"
        )
    known = np.isin(numbers, enough)
    judged = labels.judge(points[known], numbers[known], groups[known])
    suggested, margin, wrong = numbers.copy(), np.full(len(numbers), np.nan), np.zeros(len(numbers), bool)
    suggested[known], margin[known], wrong[known] = judged.suggested, judged.margin, judged.wrong
    return labels.Judged(suggested, margin, wrong, judged.accuracy), rare


def describe(pairs: copies.Pairs, images: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair: `first`, which is in the stronger split, `second`, and how alike they are."""
    ranks = images.split.map({split: rank for rank, split in enumerate(SPLITS)}).to_numpy()[pairs.positions]
    turned = np.where((ranks[:, 1] > ranks[:, 0])[:, None], pairs.positions[:, ::-1], pairs.positions)
    table = pd.DataFrame(turned, columns=["first", "second"])
    table["similarity"] = pairs.similarity.astype(float).round(DIGITS)
    table["difference"] = pairs.difference.astype(float).round(DIGITS)
    table["across"] = ranks[:, 0] != ranks[:, 1]
    return table


def named(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The pairs with path, label and split of both images instead of their rows."""
    both = [
        images.loc[pairs[which], ["path", "label", "split"]].reset_index(drop=True).add_prefix(f"{which}_")
        for which in ("first", "second")
    ]
    return pd.concat([*both, pairs[["similarity", "difference"]]], axis=1)


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as partial:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(), partial)


def in_words(name: str, about: dict[str, Any], page: Path) -> list[str]:
    right = f"{100 * about['out_of_fold_accuracy']:.1f} % of labels are those that {about['model']} suggests"
    lines = [f"{name}: {about['images']} images, {right}"]
    lines += [f"  {about[kind]:>7} {kind}" for kind in KINDS if about[kind]]
    if about["rare"]:
        lines.append(f"not judged, with images of fewer than {labels.FOLDS} groups: {', '.join(about['rare'])}")
    return [*lines, f"open {page} in a browser"]


if __name__ == "__main__":
    run_stage("audit", main, "DATASET", __doc__)
