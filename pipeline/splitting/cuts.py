"""The positions at which each class is cut, in `data/splits/DATASET.json`. Git keeps this only memory of the splits.

A line is a class: `"cat": {"seed 101": {"test 0.2": [0.2034], "test 0.2, val 0.1": [0.304]}}`. With seed 101 and a
test fraction of 0.2, groups at positions below 0.2034 are in test; with a val fraction of 0.1, those from there to
0.304 are in val. Cuts of settings that are no longer used are kept, so that going back gives the same splits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.system.console import UserError
from pipeline.system.outputs import atomic_write

Position = Annotated[float, Field(ge=0, le=1)]
ClassCuts: TypeAlias = dict[str, list[Position]]  # settings → cuts, ascending
Cuts: TypeAlias = dict[str, dict[str, ClassCuts]]  # class → seed (and group_by) → ClassCuts


def read_cuts(path: Path) -> Cuts:
    """Read what `write_cuts` wrote; without a file there are no cuts. Raises UserError for a damaged file."""
    if not path.exists():
        return {}
    try:
        return TypeAdapter(Cuts).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} can't be read{f', {where}' if where else ''}: {first['msg']};"
            f" restore it with git, e.g. git checkout {path}"
        ) from None


def write_cuts(path: Path, cuts: Cuts) -> None:
    """Write one line for each class, in alphabetical order."""
    lines = (f"  {json.dumps(label)}: {json.dumps(cuts[label], sort_keys=True)}" for label in sorted(cuts))
    with atomic_write(path) as partial:
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def choose_cuts(
    position: NDArray[np.float64], images: NDArray[np.int64], targets: NDArray[np.float64], spared: int
) -> list[float]:
    """Choose T cuts, in [0, 1], between the groups of a class, so that about `targets` (T,) images are below each.

    `position` (G,) is where each group is, and `images` (G,) is how many images of the class it has. The number of
    images below a cut is as near to its target as whole groups allow; but there is at least one group below each cut
    and between two of them, and at least `spared` groups are above the last.
    """
    order = np.argsort(position, kind="stable")
    images_below = np.concatenate([[0], np.cumsum(images[order])])
    ends = [0.0, *position[order].tolist(), 1.0]
    cuts, below = [], 0  # groups below the cut
    for number, target in enumerate(targets):
        nearest = int(np.abs(images_below - target).argmin())
        most = len(order) - spared - (len(targets) - 1 - number)
        below = min(max(min(nearest, most), below + 1), len(order))
        cuts.append(between(ends[below], ends[below + 1]))
    return cuts


def between(low: float, high: float) -> float:
    """A number above `low` and not above `high`, near their middle, with few digits."""
    middle = (low + high) / 2
    rounded = (round(middle, digits) for digits in range(1, 17))
    return next((cut for cut in rounded if low < cut <= high), high)
