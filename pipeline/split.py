"""Stage `split`: decide for every usable image whether it trains, validates or tests.

The publisher's own test (and validation) set is kept, and a person's decisions count. Everything else is drawn by
whole groups of images that belong together, by a hash of the seed and what the group is known by, so that no group is
torn and none moves as the data grow.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.config import params
from pipeline.images.tables import SPLIT, SPLITS, read_manifest, read_settings, write_tables
from pipeline.splitting.decisions import decide, read_decisions, wrong
from pipeline.splitting.draw import draw, train_order
from pipeline.splitting.groups import join
from pipeline.system.console import UserError, say
from pipeline.system.outputs import write_json

if TYPE_CHECKING:
    import pandas as pd


def main(name: str) -> None:
    everything = params.load()
    dataset, seed = everything.dataset(name), everything.seed
    checked, classes = read_manifest(Path("data/checked", f"{name}.parquet"))
    decisions_file, output = Path("data/decisions", f"{name}.csv"), Path("data/splits", f"{name}.parquet")
    decisions = read_decisions(decisions_file, checked, classes)
    settings = {"seed": seed, **dataset.split.model_dump(include={"test", "val", "folds", "group_by"})}
    previous = earlier_split(output, settings)

    decided, changes = decide(checked, decisions)
    grouped = join(name, decided, dataset.split)
    refuse_kept_leaks(decisions_file, decisions, grouped)
    table = grouped[grouped.used & ~grouped.leaked]
    stop_if_one_class(name, set(table.label), dataset.source)
    table = table.join(draw(name, table, dataset.split, seed, previous))
    table["train_order"] = train_order(table, seed)

    left_out = {
        "quarantined": int((~decided.used & (decided.status == "quarantined")).sum()),
        "dropped": changes["dropped"],
        "leaked": int(grouped.leaked.sum()),
    }
    counts = count(table, classes)
    write_json(Path("reports", name, "split.json"), {**counts, "left_out": left_out, "decisions": changes})
    rows = pa.Table.from_pandas(table[SPLIT.names], SPLIT, preserve_index=False)
    write_tables(output, [rows], classes, SPLIT.with_metadata({"settings": json.dumps(settings)}))
    say(f"{name}: {in_words(counts['total'])}; left out: {in_words(left_out)}")
    if len(decisions):
        say(f"{name}: by {decisions_file}: {in_words(changes)}")


def earlier_split(path: Path, settings: dict[str, Any]) -> pd.DataFrame | None:
    """What this stage wrote before, if it was with the same settings."""
    if not path.exists():
        return None
    table, _ = read_manifest(path)
    if read_settings(path) != settings:
        say(f"{path} was made with other settings: every side is drawn anew")
        return None
    return table


def refuse_kept_leaks(file: Path, decisions: pd.DataFrame, table: pd.DataFrame) -> None:
    """Raise UserError for an image to be kept whose group has another on a stronger official side."""
    line_of = dict(zip(decisions.path, decisions.line, strict=True))
    kept = decisions.path[decisions.decision == "keep"]
    refused = table[table.leaked & table.path.isin(kept)]
    if refused.empty:
        return
    path, component = refused.path.iloc[0], refused.component.iloc[0]
    rivals = table[table.used & (table.component == component)]
    side = max(rivals.placed, key=SPLITS.index)
    rival = rivals.path[rivals.placed == side].iloc[0]
    raise wrong(
        file,
        line_of[path],
        f"{path!r} can't be kept: {rival!r}, an official {side} image, is of the same group;"
        " expected a drop of that one too",
    )


def stop_if_one_class(name: str, present: set[str], source: str) -> None:
    if len(present) < 2:
        found = (
            f"only one class with usable images, '{present.pop()}'" if present else "no usable image in a class folder"
        )
        raise UserError(f"{name}: {found}; expected one folder per class, two at least, in {source}")


def count(table: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Images of each side, of each class and side, groups of each side, and images of the largest group."""
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
