"""Where each class is cut, `data/splits/DATASET.json`: all that a split remembers, which git keeps.

A line is a class: `"cat": {"seed 101": {"test 0.2": [0.2034], "test 0.2, val 0.1": [0.304]}}`. With seed 101, what
lies below 0.2034 tests where `test` is 0.2, and what lies from there to 0.304 validates where `val` is 0.1. The cuts
of settings that are no longer used stay, so that going back to them gives the same sides.
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
Record: TypeAlias = dict[str, list[Position]]  # settings → cuts, ascending
Cuts: TypeAlias = dict[str, dict[str, Record]]  # class → seed (and group_by) → Record


def read_cuts(path: Path) -> Cuts:
    """What `write_cuts` wrote; no file, no cuts. Raises UserError for anything else, such as a merge conflict."""
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
    """Write one line a class, in alphabetical order."""
    lines = (f"  {json.dumps(label)}: {json.dumps(cuts[label], sort_keys=True)}" for label in sorted(cuts))
    with atomic_write(path) as partial:
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def choose_cuts(
    position: NDArray[np.float64], images: NDArray[np.int64], targets: NDArray[np.float64], spared: int
) -> list[float]:
    """Cuts (T,) in [0, 1] between the groups of a class, with about `targets` (T,) images below each.

    `position` (G,) and `images` (G,) tell where the groups are and how many images of the class each has. The images
    below a cut are as near to its target as whole groups allow, but there is a group between any two cuts, and
    `spared` groups are above the last one.
    """
    order = np.argsort(position)
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
