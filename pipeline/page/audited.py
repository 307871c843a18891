"""The page of the stage audit: its findings as sections, and what the page shows of each image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.page.findings import PICTURED, Section, shares
from pipeline.page.issues import AUDITED, PAIRS
from pipeline.page.template import page_script, write_page
from pipeline.page.thumbnails import jpeg
from pipeline.page.ticking import decided_by, script_data

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

LISTED = 1_000  # findings of one kind


def write_audit(
    name: str,
    about: dict[str, Any],
    classes: list[str],
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
) -> Path:
    """Write the page and return its path. Row `rows[n]` of `pixels` (N, H, W, C) is the image in row n of `images`."""
    decisions, decided = decided_by(Path("data/decided", f"{name}.csv"))
    sections = find(images, pairs)
    listed = list(dict.fromkeys(row for section in sections for entry in section.entries for row in entry))
    pictured = {row for section in sections for entry in section.entries[: section.pictured] for row in entry}
    number = {label: number for number, label in enumerate(classes)}
    shown = images.loc[listed]
    columns: dict[str, list[Any]] = {
        **{column: shown[column].tolist() for column in ("path", "split", "distance")},
        "margin": [None if np.isnan(margin) else margin for margin in shown.margin],  # NaN is no JSON
        **{column: shown[column].map(number).tolist() for column in ("label", "suggested")},
        **dict.fromkeys(("width", "height"), [max(pixels.shape[1:3])] * len(shown)),
        "issues": [[]] * len(shown),
        "decision": [decisions.get(path) for path in shown.path],
    }
    path = Path("reports", name, "audit.html")
    write_page(
        path,
        "audit.html",
        name=name,
        about=about,
        **page_script(),
        data=script_data(
            classes,
            listed,
            columns,
            [jpeg(picture(pixels[rows[row]])) if row in pictured else None for row in listed],
            sections,
        ),
        labels=classes,
        sections=sections,
        whole=[],
        **decided,
        official_splits=[],
    )
    return path


def find(images: pd.DataFrame, pairs: pd.DataFrame) -> list[Section]:
    """The sections of the page: labels, copies across splits, other copies, outliers; the worst of each first."""
    wrong = images[images.wrong_label].sort_values("margin", kind="stable")
    outliers = images[images.outlier].sort_values("distance", ascending=False, kind="stable")
    both = pairs[["first", "second"]]
    found = {
        "wrong_label": [[row] for row in wrong.index],
        "copy_across_splits": both[pairs.across].to_numpy().tolist(),
        "near_copy": both[~pairs.across].to_numpy().tolist(),
        "outlier": [[row] for row in outliers.index],
    }
    pictured = shares({code: len(entries) for code, entries in found.items()}, PICTURED, LISTED)
    sections = []
    for code, entries in found.items():
        if entries:
            listed = entries[:LISTED]
            sizes, same = [len(entry) for entry in listed], [False] * len(listed)
            issue = {**PAIRS, **AUDITED}[code]
            sections.append(Section(code, issue, len(entries), listed, pictured[code], sizes, same))
    return sections


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
