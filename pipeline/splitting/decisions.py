"""A person's decisions on single images: `data/decisions/DATASET.csv`, which git keeps, as `decisions` has copied it.

A line is `path,decision,label,note`: the decision is `keep` (use it although `check` quarantined it), `drop` (leave it
out) or empty; the label, where there is one, is the image's class from now on; the note is for people. Text that a
spreadsheet would run has a quote before it: see `pipeline.system.csv_cells`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.config.fields import hint
from pipeline.system.console import UserError, first_few
from pipeline.system.csv_cells import unescape_formula

if TYPE_CHECKING:
    import pandas as pd

HEADER = ["path", "decision", "label", "note"]
DECISIONS = ("keep", "drop", "")
LISTED = 30  # classes named when one is unknown


def read_decisions(file: Path, table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """One row per decision: `path`, `decision` (keep, drop or empty), `label` (or empty), `note`, and its `line`.

    `table` is what `check` wrote, of which `path`, `label`, `pixel_hash` and `issues` are read. No file, no rows.
    Raises UserError, with file and line, for whatever is not in `table` or `classes` or contradicts them.
    """
    import pandas as pd

    rows = list(read_rows(file))
    metadata = table.loc[table.path.isin([row["path"] for row in rows]), ["path", "label", "pixel_hash", "issues"]]
    metadata_of = metadata.astype(object).where(metadata.notna(), None).set_index("path").to_dict("index")
    line_of: dict[str, int] = {}
    for row in rows:
        path, line = row["path"], row["line"]
        if path not in metadata_of:
            raise wrong(file, line, f"no image {path!r}{hint(path, neighbors(path, table.path))}")
        if path in line_of:
            raise wrong(file, line, f"{path!r} is on line {line_of[path]} already")
        line_of[path] = line
        refuse_impossible(file, row, metadata_of[path], classes)
    return pd.DataFrame(rows, columns=[*HEADER, "line"])


def decide(table: pd.DataFrame, decisions: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """What `check` wrote as the person wants it, and how many images that changed.

    `label` becomes the person's, `first_label` is what it was, and `used` (bool) is new. `table` needs `path`, `label`
    and `status`.
    """
    by_path = decisions.set_index("path")
    decision = table.path.map(by_path.decision)
    new_label = table.path.map(by_path.label[by_path.label != ""]).astype(object)
    is_good = table.status != "quarantined"
    used = (is_good | (decision == "keep")) & (decision != "drop")
    counts = {
        "kept": used & ~is_good,
        "dropped": is_good & ~used,
        "relabeled": used & new_label.notna() & (new_label != table.label),
    }
    label = new_label.fillna(table.label)
    decided = table.assign(label=label, first_label=table.label, used=used)
    return decided, {what: int(changed.sum()) for what, changed in counts.items()}


def is_begun(file: Path) -> bool:
    """Whether there is a table, with a header at least."""
    return file.exists() and bool(file.read_bytes().strip())


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    if not is_begun(file):
        return
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise wrong(file, line, "not UTF-8: save the table as 'CSV UTF-8'") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        if header != HEADER:
            raise wrong(file, 1, f"the header is {','.join(header)!r}; expected '{','.join(HEADER)}'")
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) > len(HEADER):
                raise wrong(
                    file, line, f"{len(fields)} fields; expected {len(HEADER)}: put quotes around one that has commas"
                )
            if fields:
                padded = [*map(unescape_formula, fields), "", "", ""]
                yield {**dict(zip(HEADER, padded, strict=False)), "line": line}
            line = reader.line_num + 1
    except csv.Error as error:
        raise wrong(file, line, f"not CSV: {error}") from None


def refuse_impossible(file: Path, row: dict[str, Any], metadata: dict[Any, Any], classes: list[str]) -> None:
    path, decision, label, line = row["path"], row["decision"], row["label"], row["line"]
    if decision not in DECISIONS:
        raise wrong(file, line, f"decision {decision!r}{hint(decision, DECISIONS)}; expected keep, drop or nothing")
    if label and label not in classes:
        raise wrong(file, line, f"no class {label!r}{hint(label, classes)}; there are: {first_few(classes, LISTED)}")
    if label and not decision and metadata["label"] is None:
        raise wrong(file, line, f"{path!r} is left out, because it has no class; expected keep, to use it as {label!r}")
    if decision == "keep" and metadata["pixel_hash"] is None:
        problem = f"{path!r} can't be kept: it can't be decoded ({', '.join(metadata['issues'])})"
        if "too_large" in metadata["issues"]:
            problem += f"; if it has too many pixels, raise datasets.{file.stem}.check.max_pixels in params.yaml"
        raise wrong(file, line, problem)
    if decision == "keep" and not (label or metadata["label"]):
        raise wrong(file, line, f"{path!r} can't be kept without a class: it is in no class folder; expected a label")


def neighbors(path: str, paths: pd.Series) -> list[str]:
    """Paths with the same file name, else those in the same folder: comparing with a million would take a minute."""
    parts = PurePosixPath(path)
    same_name = paths[(paths == parts.name) | paths.str.endswith(f"/{parts.name}")]
    return list(same_name) or list(paths[paths.str.startswith(f"{parts.parent}/")])


def edited(file: Path) -> Path:
    """The table that `file` is a copy of: where a person edits it."""
    return Path("data/decisions", file.name)


def wrong(file: Path, line: int, problem: str) -> UserError:
    return UserError(f"{edited(file)}, line {line}: {problem}")
