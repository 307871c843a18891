"""How long a whole `dvc repro` takes in a new clone, stage by stage, and how long where there is nothing to do.

usage: python -m benchmarks.repro [--json] [EXPERIMENT …]

In one clone of this repository, one experiment after another: what an earlier one has made is there already. Published
files come from DATA_MIRROR, or from their publishers. Seconds of a stage are from its start to that of the next one;
what DVC does before the first and after the last is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import REPOSITORY, in_words, machine, short, table

EXPERIMENTS = ("digits-mlp", "mnist-mlp", "mnist-gd", "fashion-mnist-mlp")
STARTS = re.compile(r"^Running stage '(\w+)@")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repro", description=__doc__)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, help=f"default: {' '.join(EXPERIMENTS)}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.experiments)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def measure(experiments: tuple[str, ...] = EXPERIMENTS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="repro-") as folder:
        clone = new_clone(Path(folder))
        studies = [name for name in experiments if not name.startswith("digits-")]
        if studies:
            subprocess.run([sys.executable, "-m", "pipeline.study", *studies], cwd=clone, check=True)
        told = {name: {"stages": timed(clone, name), "again": sum(timed(clone, name).values())} for name in experiments}
    return {"experiments": told, "machine": machine()}


def new_clone(folder: Path) -> Path:
    """A clone of this repository, with the packages that are installed here."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    return clone


def timed(clone: Path, experiment: str) -> dict[str, float]:
    """Seconds of each stage that `dvc repro` runs, and of DVC itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    command = [str(Path(sys.prefix, "bin/dvc")), "repro", f"evaluate@{experiment}"]
    seconds: dict[str, float] = {}
    stage, since = "dvc", time.perf_counter()
    last = ""
    with subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as ran:
        assert ran.stdout
        for line in ran.stdout:
            last = line.strip() or last
            if found := STARTS.match(line):
                now = time.perf_counter()
                seconds[stage] = seconds.get(stage, 0) + now - since
                stage, since = found[1], now
    seconds[stage] = seconds.get(stage, 0) + time.perf_counter() - since
    if ran.returncode:
        sys.exit(f"error: {' '.join(command[1:])} ended with status {ran.returncode}: {last}")
    return {name: round(value, 2) for name, value in seconds.items()}


def as_table(figures: dict[str, Any]) -> str:
    stages = list(dict.fromkeys(stage for told in figures["experiments"].values() for stage in told["stages"]))
    rows = []
    for name, told in figures["experiments"].items():
        each = [short(told["stages"][stage]) if stage in told["stages"] else "" for stage in stages]
        rows.append((f"`{name}`", *each, short(sum(told["stages"].values())), short(told["again"])))
    heads = ("seconds", *(f"`{stage}`" for stage in stages), "all", "once more")
    return f"{in_words(figures['machine'])}; 1 run.\n\n{table(heads, rows)}"


if __name__ == "__main__":
    main()
