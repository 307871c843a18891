"""How long DVC's queue takes for two experiments of digits: one after the other, and side by side.

usage: python -m benchmarks.queue [--rounds N] [--json]

In a clone of this repository in which digits has run: two learning rates of digits-cnn that no run before had. Seconds
are from `dvc queue start` until DVC has kept both results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.repro import new_clone
from benchmarks.side_by_side import in_words, machine, median, spread, table

EXPERIMENT = "digits-cnn"
JOBS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of every round by the number of jobs, and the median over rounds of their ratio."""
    told: dict[int, list[float]] = {jobs: [] for jobs in JOBS}
    with tempfile.TemporaryDirectory(prefix="queue-") as folder:
        clone = new_clone(Path(folder))
        dvc(clone, "repro", f"evaluate@{EXPERIMENT}")
        for number in range(rounds):
            for jobs in JOBS:
                rates = {
                    f"rate-{number}-{jobs}-{each}": 0.003 + number / 1e4 + jobs / 1e5 + each / 1e6 for each in (1, 2)
                }
                told[jobs].append(round(timed(clone, jobs, rates), 1))
    alone, beside = (told[jobs] for jobs in JOBS)
    ratio = median(two / one for one, two in zip(alone, beside, strict=True))
    return {"rounds": rounds, "each_round": told, "ratio": ratio, "machine": machine()}


def timed(clone: Path, jobs: int, rates: dict[str, float]) -> float:
    """Seconds until experiments with these learning rates, by their names, have run in so many jobs."""
    for name, rate in rates.items():
        change = f"experiments.{EXPERIMENT}.optimizer.lr={rate:.6f}"
        dvc(clone, "exp", "run", "--queue", "--name", name, "-S", change, f"evaluate@{EXPERIMENT}")
    start = time.perf_counter()
    dvc(clone, "queue", "start", "--jobs", str(jobs))
    while not rates.keys() <= kept(clone):
        time.sleep(0.2)
    seconds = time.perf_counter() - start
    dvc(clone, "queue", "stop")
    while workers(clone):
        time.sleep(0.2)
    return seconds


def kept(clone: Path) -> set[str]:
    """The names of the experiments whose results DVC has. Exits if one has failed."""
    command = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
    refs = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout.splitlines()
    if "refs/exps/celery/failed" in refs:
        sys.exit("error: an experiment failed in the queue")
    return {ref.rpartition("/")[2] for ref in refs}


def workers(clone: Path) -> list[psutil.Process]:
    """The processes that work in a clone."""
    found = psutil.process_iter(["cwd"])
    return [process for process in found if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(clone)]


def dvc(clone: Path, *arguments: str) -> None:
    """Run a command of DVC, and say nothing. The queue's workers find `dvc` in PATH; no pipe is theirs to hold open."""
    programs = Path(sys.prefix, "bin")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    environment["PATH"] = os.pathsep.join([str(programs), os.environ["PATH"]])
    subprocess.run(
        [str(programs / "dvc"), *arguments], cwd=clone, env=environment, stdout=subprocess.DEVNULL, check=True
    )


def as_table(figures: dict[str, Any]) -> str:
    alone, beside = map(spread, figures["each_round"].values())
    heads = (f"two experiments of `{EXPERIMENT}`", "`--jobs 1`, s", "`--jobs 2`, s", "2 jobs ÷ 1", "goal")
    row = ("until DVC has both results", alone, beside, f"{figures['ratio']:.2f} ×", "< 1 ×")
    return f"{in_words(figures['machine'])}; {figures['rounds']} rounds in turns.\n\n{table(heads, [row])}"


if __name__ == "__main__":
    main()
