"""Stage `split`: decide for every usable image whether it trains, validates or tests.

The publisher's own test (and validation) set is kept. Everything else is drawn class by class, in the order of a
hash of seed and content, so that identical images always fall on the same side.

usage: python -m pipeline.split DATASET
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.console import UserError, only_argument, run
from pipeline.manifest import SPLIT, read_manifest, write_manifest
from pipeline.outputs import write_json

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("train", "val", "test")


def main() -> None:
    name = only_argument("DATASET")
    everything = params.load()
    fractions = everything.dataset(name).split
    table, classes = read_manifest(Path("data/checked", f"{name}.parquet"))
    table = table[table.status != "quarantined"].reset_index(drop=True)
    present = set(table.label)
    if len(present) < 2:
        found = (
            f"only one class with usable images, '{present.pop()}'" if present else "no usable image in a class folder"
        )
        raise UserError(
            f"{name}: {found}; expected one folder per class, two at least, in {everything.dataset(name).source}"
        )

    official = set(table.official_split.dropna())
    wanted = {
        "test": 0.0 if "test" in official else fractions.test,
        "val": 0.0 if "val" in official else fractions.val,
    }
    table["split"] = table.official_split.where(table.official_split.isin(official - {"train"}), "train")
    draw(name, table, wanted, everything.seed)

    counts = {
        label: {side: int(((table.label == label) & (table.split == side)).sum()) for side in SIDES}
        for label in classes
    }
    total = {side: int((table.split == side).sum()) for side in SIDES}
    write_json(Path("reports", name, "split.json"), {"total": total, "classes": counts})
    rows = [{"path": row.path, "label": row.label, "split": row.split} for row in table.itertuples()]
    write_manifest(Path("data/splits", f"{name}.parquet"), rows, classes, SPLIT)
    print(f"{name}: " + ", ".join(f"{count} {side}" for side, count in total.items()))


def draw(name: str, table: pd.DataFrame, wanted: dict[str, float], seed: int) -> None:
    """Move images of `table` from train to the sides in `wanted`, whole groups of equal content, class by class.

    A fraction counts from the images that the publisher has not placed; of `val` and `test` each gets at least one
    group of every class. Raises UserError for a class with too few different images for its sides.
    """
    free = table[table.split == "train"]
    # A group takes the first class of its images by name: contradicting labels do not tear it apart
    groups = free.groupby("sha256").agg(label=("label", "min"), size=("label", "size"))
    groups["order"] = [order(seed, content) for content in groups.index]
    groups = groups.sort_values("order")
    sides = [side for side in ("test", "val") if wanted[side] > 0]
    side_of = {}
    for label in sorted(set(table.label)):  # a class that is in no group has no image to train on
        members = groups[groups.label == label]
        if len(members) <= len(sides):
            sides_and = " and ".join([*reversed(sides), "train"])
            raise UserError(
                f"{name}: class '{label}' has too few different images ({len(members)}) to share between {sides_and};"
                f" expected at least {len(sides) + 1}: add images or remove the class"
            )
        sizes = list(members["size"])
        start = 0
        for position, side in enumerate(sides):
            last = len(members) - len(sides) + position  # what must be left for the sides to come
            goal = max(1, round(wanted[side] * sum(sizes)))
            stop, taken = start + 1, sizes[start]
            while stop < last and taken < goal:
                taken += sizes[stop]
                stop += 1
            side_of.update(dict.fromkeys(members.index[start:stop], side))
            start = stop
    moved = table.sha256.map(side_of)
    table["split"] = moved.where((table.split == "train") & moved.notna(), table.split)


def order(seed: int, content: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{content}".encode(), digest_size=16).digest()


if __name__ == "__main__":
    run(main)
