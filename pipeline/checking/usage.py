"""How the files of a source are used: which official split each is in, or why it is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.checking.inspected import Inspected
from pipeline.checking.metadata import BROKEN
from pipeline.checking.validation import Validation
from pipeline.images.folders import Folders
from pipeline.images.items import is_clutter, is_visible


class Usage(NamedTuple):
    """Every file is counted once, in `used` or in `left_out`."""

    used: dict[str, int]  # by official split, or all as `unassigned`
    left_out: dict[str, int]  # by reason: an issue code, `hidden` or `clutter`
    without_class: dict[str, int]  # those left out as `no_label`, by folder


def count(inspected: Inspected, validation: Validation, folders: Folders) -> Usage:
    reasons, places = Counter[str](), Counter[str]()
    for row in unusable_rows(inspected, validation):
        reason = why(row)
        reasons[reason] += 1
        if reason == "no_label":
            parts = row["path"].split("/")[:-1]
            places["/".join([*parts[: len(folders.root) + 1], ""]) or "./"] += 1
    if leaks := int((validation.quarantined & ~validation.unusable).sum()):
        reasons["split_leak"] = leaks
    return Usage(validation.used_per_split(), dict(sorted(reasons.items())), dict(sorted(places.items())))


def unusable_rows(inspected: Inspected, validation: Validation) -> Iterator[dict[str, Any]]:
    start = 0
    for table in inspected.tables(["path", "issues", "reason"]):
        yield from table.filter(validation.unusable[start : start + len(table)]).to_pylist()
        start += len(table)


def why(row: dict[str, Any]) -> str:
    """Why a file can't be used."""
    if not is_visible(row["path"]):
        return "hidden"
    if is_clutter(row["path"], row["issues"]):
        return "clutter"
    return next((code for code in row["issues"] if code in BROKEN), "no_label")
