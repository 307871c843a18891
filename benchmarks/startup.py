"""What each stage of the embedded example, digits, costs as a process, and which heavy packages it imports.

usage: python -m benchmarks.startup [--rounds N] [--experiment NAME] [--json]

The stages run in turns, one after another as the pipeline runs them, in a folder of their own, beside `python -c pass`
and `python -c 'import torch'`. Seconds are of the whole process, from its start to its end; `train` also tells how many
of them it trained. One more turn, before the clock, tells what is in sys.modules at the end; so `download` finds its
file, and `track` its result, already there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import REPOSITORY, caption, machine, median, spread, table

HEAVY = (
    "torch", "torchvision", "torch._dynamo", "mlflow", "sklearn", "scipy", "pandas", "pyarrow", "pydantic",
    "matplotlib",
)  # fmt: skip
ON_DATA, ON_EXPERIMENT = ("download", "check", "split", "report", "pack"), ("train", "evaluate", "track")

# Runs a stage as `python -m` does, then says what it has imported
MODULES = """
import json, pathlib, runpy, sys
out, module = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.argv[1:] = sys.argv[3:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    out.write_text(json.dumps(sorted(sys.modules)))
"""

# Runs the stage `train` as `python -m` does, and prints the seconds of its training alone
TRAINING = """
import runpy, sys, time
from pipeline.training.trainer import Trainer
fit = Trainer.fit
def timed(*arguments, **options):
    start = time.perf_counter()
    history = fit(*arguments, **options)
    print(time.perf_counter() - start)
    return history
Trainer.fit = timed
runpy.run_module("pipeline.train", run_name="__main__", alter_sys=True)
"""
GOAL = 1.3  # times `import torch` that `train` may take beside its training


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiment", default="digits-mlp", help="of the data set digits")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds, arguments.experiment)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def measure(rounds: int, experiment: str = "digits-mlp") -> dict[str, Any]:
    stages = {**dict.fromkeys(ON_DATA, "digits"), **dict.fromkeys(ON_EXPERIMENT, experiment)}
    commands = {"python -c pass": ["-c", "pass"], "python -c 'import torch'": ["-c", "import torch"]}
    commands |= {stage: ["-m", f"pipeline.{stage}", argument] for stage, argument in stages.items()}
    commands["train"] = ["-c", TRAINING, experiment]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    training = []
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        for file in ("params.yaml", "dvc.yaml", "dvc.lock"):
            shutil.copy(REPOSITORY / file, folder)
        imports = {stage: imported(stage, argument, Path(folder)) for stage, argument in stages.items()}
        for _ in range(rounds):
            for name, command in commands.items():
                start = time.perf_counter()
                out = run(command, Path(folder))
                seconds[name].append(time.perf_counter() - start)
                if name == "train":
                    training.append(sum(float(line) for line in out.splitlines() if re.fullmatch(r"[\d.]+", line)))
    imports_torch = seconds["python -c 'import torch'"]
    beside = [
        (whole - trained) / torch
        for whole, trained, torch in zip(seconds["train"], training, imports_torch, strict=True)
    ]
    return {
        "experiment": experiment,
        "rounds": rounds,
        "training": [round(value, 3) for value in training],
        "train_beside_training": median(beside),  # times `import torch`
        "stages": {
            name: {
                "seconds": median(values),
                "seconds_min": round(min(values), 3),
                "imports": imports.get(name, ["torch"] if "torch" in name else []),
                "each_round": [round(value, 3) for value in values],
            }
            for name, values in seconds.items()
        },
        "machine": machine(),
    }


def imported(stage: str, argument: str, folder: Path) -> list[str]:
    """The heavy packages that a stage has imported when it ends."""
    told = folder / "modules.json"
    run(["-c", MODULES, str(told), f"pipeline.{stage}", argument], folder)
    modules = json.loads(told.read_text())
    told.unlink()
    return [name for name in HEAVY if name in modules]


def run(arguments: list[str], folder: Path) -> str:
    """What a process prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments[-3:])} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def as_table(figures: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", spread(row["each_round"]), ", ".join(f"`{package}`" for package in row["imports"]))
        for name, row in figures["stages"].items()
    ]
    beside = f"`train` of `{figures['experiment']}` trains for {spread(figures['training'])} of its seconds;"
    beside += f" the rest is {figures['train_beside_training']:.2f} × `import torch` (goal: ≤ {GOAL} ×)."
    return f"{caption(figures)}\n\n{table(('process', 'seconds', 'imports'), rows)}\n\n{beside}"


if __name__ == "__main__":
    main()
