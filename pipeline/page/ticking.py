"""What page.js works on: the images that a person may tick, and the sections that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.page.findings import MEMBERS, Section
from pipeline.splitting.decisions import HEADER, is_begun, read_rows

RELABELED = "wrong_label"  # the section in which a tick gives an image the suggested class; elsewhere it drops it


def decided_by(file: Path) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """What a person has decided, [decision, label, note] by path, and what a page says of the file itself."""
    decisions = {row["path"]: [row[key] for key in HEADER[1:]] for row in read_rows(file)}
    header = "" if is_begun(file) else ",".join(HEADER)
    return decisions, {"decided": len(decisions), "decision_header": header}


def script_data(
    classes: list[str],
    listed: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
    pictures: Sequence[str | None],
    sections: Sequence[Section],
) -> dict[str, Any]:
    """`columns` and `pictures` have an entry for each row of `listed`; entries of sections become positions in it."""
    position = {row: number for number, row in enumerate(listed)}
    return {
        "classes": classes,
        "columns": list(columns),
        "images": [list(values) for values in zip(*columns.values(), strict=True)],
        "members": MEMBERS,
        "pictures": list(pictures),
        "sections": [
            {
                "code": section.code,
                "groups": section.is_groups,
                "measure": section.issue.measure,
                "action": "relabel" if section.code == RELABELED else "drop",
                "total": section.total,
                "entries": [[position[row] for row in entry] for entry in section.entries],
                "sizes": section.sizes,
                "samePixels": section.same_pixels,
            }
            for section in sections
        ],
    }
