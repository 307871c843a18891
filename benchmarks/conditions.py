"""What training costs when it is portable, and beside other work.

usage: python -m benchmarks.conditions --config NAME [--epochs N] [--images N] [--rounds N] [--json]

In turns, each in a process of its own: the trainer without `compute.portable`, with it, and as the experiment has it
while a process on every core does nothing but spin.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.side_by_side import caption, machine, run, spread, table
from benchmarks.train import changed, ratio, read_job, what_ran
from pipeline.system.portable import TORCH

PORTABLE_GOAL, BUSY_GOAL = 1.6, 3.0  # at most: times the trainer that is not portable; times the same, when it is quiet
HEADS = ("experiment", "what ran", "trainer, s", "portable, s", "busy, s", "portable ÷ trainer", "busy ÷ quiet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditions", description=__doc__)
    parser.add_argument("--config", required=True, help="an experiment of params.yaml, or a study")
    parser.add_argument("--epochs", type=int, help="instead of the experiment's")
    parser.add_argument("--images", type=int, help="train on so many, evenly spaced or repeated, instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.config, arguments.epochs, arguments.images, arguments.rounds)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table([figures]))


def measure(config: str, epochs: int | None, images: int | None, rounds: int) -> dict[str, Any]:
    """Seconds of every round, and medians over rounds of their ratios."""
    job = read_job(config)
    plain = changed(job, epochs, images, "cpu", 0, None)
    portable = copy.deepcopy(plain)
    own = "portable" if plain["config"]["compute"]["portable"] else "trainer"
    plain["config"]["compute"]["portable"] = False
    portable["config"]["compute"]["portable"] = True
    contenders = {
        "trainer": partial(run, "benchmarks.trainer", plain),
        "portable": partial(run, "benchmarks.trainer", portable, **TORCH),
    }
    told: dict[str, list[dict[str, Any]]] = {"trainer": [], "portable": [], "busy": []}
    for _ in range(rounds):
        for name, train in contenders.items():
            told[name].append(train())
        with spinning():
            told["busy"].append(contenders[own]())
    first = told["trainer"][0]
    return {
        "config": job["experiment"],
        "source": job["source"],
        "stands_in": job["stands_in"],
        "random_weights": job.get("random_weights", False),
        "images": first["images"],
        "epochs": plain["config"]["epochs"],
        "batch_size": plain["config"]["batch_size"],
        "precision": plain["config"]["precision"],
        "workers": 0,
        "rounds": rounds,
        "each_round": {name: [round(row["seconds"], 4) for row in rows] for name, rows in told.items()},
        "portable_ratio": ratio(told["portable"], told["trainer"]),
        "busy_ratio": ratio(told["busy"], told[own]),
        "machine": machine(),
    }


@contextmanager
def spinning() -> Iterator[None]:
    """Keep every core busy with a process that never waits."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def as_table(measured: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"`{figures['config']}`",
            what_ran(figures),
            *map(spread, figures["each_round"].values()),
            f"{figures['portable_ratio']:.2f} ×",
            f"{figures['busy_ratio']:.2f} ×",
        ]
        for figures in measured
    ]
    goals = ["goal", "", "", "", "", f"≤ {PORTABLE_GOAL} ×", f"≤ {BUSY_GOAL} ×"]
    return f"{caption(measured[0])}\n\n{table(HEADS, [*rows, goals])}"


if __name__ == "__main__":
    main()
