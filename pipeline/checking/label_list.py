"""Compare a list of labels with the files beside it: rows without a file, and files without a row."""

from __future__ import annotations

import numpy as np

from pipeline.images.label_lists import NONE
from pipeline.images.labeled import REPEATED, Labeled
from pipeline.system.console import UserError, say


def compare(name: str, source: Labeled, most: float) -> dict[str, int]:
    """Print and return how many rows and images there are of each kind; the rows add up.

    Raises UserError if more than the fraction `most` of the files that the list names is not there.
    """
    missing, unlisted = source.missing, source.unlisted
    labels = np.frombuffer(source.list.label, np.int64)
    is_there = source.file_of_row >= 0
    counts = {
        "rows": int((source.file_of_row != REPEATED).sum()) + source.list.repeated,
        "labeled": int((is_there & (labels != NONE)).sum()),
        "without_label": int((is_there & (labels == NONE)).sum()),
        "missing": missing,
        "repeated": source.list.repeated,
        "unlisted": unlisted,
    }
    absent = (
        f"{missing} of {len(labels)} files that {source.path} names are not there{named(missing, source.missing_names)}"
    )
    if missing > most * len(labels):
        raise UserError(
            f"{name}: {absent}, more than datasets.{name}.check.max_quarantined = {most:g} allows; it does not name"
            f" {unlisted} images{named(unlisted, source.unlisted_names)}: correct the list, or add the files"
        )
    lines = [f"{name}: {source.path} has {counts['rows']} rows: {counts['labeled']} labels of images"]
    lines += [f"{counts['without_label']} without a label"] * (counts["without_label"] > 0)
    lines += [f"{counts['repeated']} repeated"] * (counts["repeated"] > 0)
    lines += [f"{missing} of files that are not there{named(missing, source.missing_names)}"] * (missing > 0)
    not_named = f"; not in it, and left out: {unlisted} images{named(unlisted, source.unlisted_names)}"
    say(", ".join(lines) + not_named * (unlisted > 0))
    return counts


def named(count: int, names: list[str]) -> str:
    return f" ({', '.join(names)}{', …' if count > len(names) else ''})" if names else ""
