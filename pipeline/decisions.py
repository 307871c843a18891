"""Stage `decisions`: take a person's decisions on a data set out of the folder that has those on all of them.

A table may be missing, and DVC stops where a dependency is missing. So this stage depends on the folder, and `split`
and `report` on what it writes: a line about one data set outdates no other's split.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

from pathlib import Path

from pipeline.config import params
from pipeline.system.outputs import atomic_write


def main(name: str) -> None:
    params.load().dataset(name)  # refuses a name that it does not know
    table = Path("data/decisions", f"{name}.csv")
    with atomic_write(Path("data/decided", f"{name}.csv")) as partial:
        partial.write_bytes(table.read_bytes() if table.exists() else b"\n")  # DVC warns of empty files


if __name__ == "__main__":
    run_stage("decisions", main, "DATASET", __doc__)
