"""Stage `split`: decide for every usable image whether it trains, validates or tests.

The publisher's own test (and validation) set is kept, and a person's decisions count. Everything else is drawn in
whole groups of images that belong together (`pipeline.splitting.draw` says how). `data/splits/DATASET.json`, which git
keeps, remembers where each class was cut, so that what was in test never trains, however the data grow.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.checking import drift, name_groups
from pipeline.checking.overview import Overview
from pipeline.config import params
from pipeline.images.tables import SPLIT, SPLITS, read_manifest, write_tables
from pipeline.page import overall
from pipeline.page.advice import DRAWN_MEND
from pipeline.page.template import write_page
from pipeline.splitting.cuts import read_cuts, write_cuts
from pipeline.splitting.decisions import decide, edited, read_decisions, wrong
from pipeline.splitting.draw import draw, train_order
from pipeline.splitting.groups import join
from pipeline.system.console import UserError, first_few, say
from pipeline.system.outputs import write_json

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.checking.drift import Shift
    from pipeline.checking.name_groups import Suggestion
    from pipeline.page.overall import Finding

NAMED = 10  # classes, in a message


def main(name: str) -> None:
    everything = params.load()
    dataset, seed = everything.dataset(name), everything.seed
    checked_file = Path("data/checked", f"{name}.parquet")
    checked, known = read_manifest(checked_file)
    decisions_file, cuts_file = Path("data/decided", f"{name}.csv"), Path("data/splits", f"{name}.json")
    decisions = read_decisions(decisions_file, checked, known)
    cuts = read_cuts(cuts_file)

    decided, changes = decide(checked, decisions)
    grouped = join(name, decided, dataset.split)
    refuse_kept_leaks(decisions_file, decisions, grouped)
    stop_if_one_class(name, set(grouped.label[grouped.used & ~grouped.leaked]), dataset.source)
    drawn = draw(name, grouped, dataset.split, seed, cuts)
    table = grouped.join(drawn.dropna(subset="split"), how="inner")
    table["train_order"] = train_order(table, seed)
    present = set(table.label)
    classes = [label for label in known if label in present]

    left_out = {
        "quarantined": int((~decided.used & (decided.status == "quarantined")).sum()),
        "dropped": changes["dropped"],
        "leaked": int(grouped.leaked.sum()),
        "tested": int(drawn.split.isna().sum()),
    }
    counts = count(table, classes)
    if not counts["total"]["test"]:  # said before anything trains: `evaluate` needs some
        raise UserError(f"{name}: no image is left to test: raise datasets.{name}.split.test in params.yaml")
    write_cuts(cuts_file, cuts)  # before the table: no test set is ever there that is not remembered
    write_json(Path("reports", name, "split.json"), {**counts, "left_out": left_out, "decisions": changes})
    overview = Overview(checked_file)
    whole, differences = compare_splits(overview, table, set(checked.official_split.dropna()))
    write_page(Path("reports", name, "split.html"), "split.html", name=name, counts=counts, whole=whole)
    rows = pa.Table.from_pandas(table[SPLIT.names], SPLIT, preserve_index=False)
    write_tables(Path("data/splits", f"{name}.parquet"), [rows], classes, SPLIT)
    say(f"{name}: {in_words(counts['total'])}; left out: {in_words(left_out)}")
    say(*(f"{name}: {line}" for line in of_classes(counts, len(known) - len(classes))))
    if left_out["tested"]:
        say(
            f"{name}: {left_out['tested']} images are left out: they tested when split.test was larger; if no result"
            f" of then counts, restore {cuts_file} of before with git checkout"
        )
    say(*(f"{name}: {line}" for line in differences))
    if dataset.split.group_by is None and overview.groups:
        say(*straddling(name, overview.groups, table))
    if len(decisions):
        say(f"{name}: by {edited(decisions_file)}: {in_words(changes)}")


def of_classes(counts: dict[str, Any], without: int) -> Iterator[str]:
    """The classes, how many others are `without` images, and of which a split has none."""
    classes = counts["classes"]
    others = f"; no image is left of {without} more" if without else ""
    yield f"{len(classes)} classes: {first_few([*classes], NAMED)}{others}"
    for split, images in counts["total"].items():
        absent = [label for label, row in classes.items() if not row[split]]
        if images and absent:
            yield f"no {split} images of {first_few(absent, NAMED)}"


def compare_splits(overview: Overview, table: pd.DataFrame, official: set[str]) -> tuple[list[Finding], list[str]]:
    """How the images of the overview's sample differ between splits: for the page, and in lines for the console.

    The lines leave out what `check` has said already, of pairs of `official` splits.
    """
    placed = table.set_index("path")[["label", "split"]].reindex(overview.column("path"))
    labels = placed.label.fillna("").tolist()
    splits = placed.split.astype(object).where(placed.split.notna(), None).tolist()  # None: left out
    known: list[Shift] = []
    drawn: list[Shift] = []
    for shift in overview.shifts_between(labels, splits):
        (known if official.issuperset(shift.splits) else drawn).append(shift)
    found = [
        *overall.drifted(known, overview.column("path"), labels, splits),
        *overall.drifted(drawn, overview.column("path"), labels, splits, DRAWN_MEND),
    ]
    return [finding._replace(strips=[]) for finding in found], drift.in_words(drawn)  # the other page has pictures


def straddling(name: str, groups: Suggestion, table: pd.DataFrame) -> list[str]:
    """A line for groups of file names that are in several splits, if there are any."""
    keys = table.path.str.extract(groups.pattern, expand=False)
    counted = table.split.groupby(keys).agg(["size", "nunique"])
    counted = counted[counted["size"] > 1]
    torn = counted.index[counted["nunique"] > 1]
    if torn.empty:
        return []
    return [
        f"{name}: {len(torn)} of {len(counted)} groups that file names show, such as {torn[0]}, are in several splits:"
        f" to keep each in one, set datasets.{name}.split.group_by: {name_groups.quoted(groups.pattern)}"
    ]


def refuse_kept_leaks(file: Path, decisions: pd.DataFrame, table: pd.DataFrame) -> None:
    """Raise UserError for an image to be kept whose group has another in a stronger official split."""
    line_of = dict(zip(decisions.path, decisions.line, strict=True))
    kept = decisions.path[decisions.decision == "keep"]
    refused = table[table.leaked & table.path.isin(kept)]
    if refused.empty:
        return
    path, component = refused.path.iloc[0], refused.component.iloc[0]
    rivals = table[table.used & (table.component == component)]
    split = max(rivals.placed, key=SPLITS.index)
    rival = rivals.path[rivals.placed == split].iloc[0]
    raise wrong(
        file,
        line_of[path],
        f"{path!r} can't be kept: {rival!r}, an official {split} image, is of the same group;"
        " expected a drop of that one too",
    )


def stop_if_one_class(name: str, present: set[str], source: str) -> None:
    if len(present) < 2:
        found = (
            f"only one class with usable images, '{present.pop()}'" if present else "no usable image in a class folder"
        )
        raise UserError(
            f"{name}: {found}; expected one folder per class, two at least, in {source}, or a list as check.labels"
        )


def count(table: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Images of each split, of each class and split, groups of each split, and images of the largest group."""
    import pandas as pd

    by_class = pd.crosstab(table.label, table.split).reindex(index=classes, columns=list(SPLITS), fill_value=0)
    groups = table.groupby("split").component.nunique()
    return {
        "total": by_class.sum().to_dict(),
        "classes": by_class.to_dict("index"),
        "groups": groups.reindex(SPLITS, fill_value=0).to_dict(),
        "largest_group": int(table.component.value_counts().max()),
    }


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items())


if __name__ == "__main__":
    run_stage("split", main, "DATASET", __doc__)
