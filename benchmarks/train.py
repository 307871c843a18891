"""How fast training is, side by side with the loop that people write and with what the machine can do at all.

usage: python -m benchmarks.train --config NAME [--epochs N] [--images N] [--rounds N] [--device NAME] [--workers N]
                                  [--precision fp32|bf16] [--json]

In turns, each in a process of its own, on the same images, for the same number of steps: the published study's loop
(benchmarks.usual_loops), this project's trainer (benchmarks.trainer), and the bare matrix products and convolutions of
the same steps (benchmarks.limit). Seconds are of training alone, without imports, without what is done once to bring
the data into reach, and without evaluation, which is told apart. NAME is an experiment of params.yaml, a study, or the
file of a job (see benchmarks.studies) on a machine that has only torch, torchvision, numpy, pandas, pyarrow, tqdm and
xxhash.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import caption, in_turns, machine, median, run, short, spread, table

CONTENDERS = ("usual_loops", "trainer", "limit")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--config", required=True, help="an experiment of params.yaml, a study, or the file of a job")
    parser.add_argument("--epochs", type=int, help="instead of the experiment's")
    parser.add_argument("--images", type=int, help="train on so many, evenly spaced or repeated, instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--workers", type=int, default=0, help="of the usual loop's DataLoader")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="instead of the experiment's; the usual loop: fp32"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    job = read_job(arguments.config)
    change = {key: getattr(arguments, key) for key in ("epochs", "images", "device", "workers", "precision")}
    figures = compare(job, arguments.rounds, **change)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def read_job(config: str) -> dict[str, Any]:
    """A job with absolute paths. Exits with one line where there is none."""
    file = Path(config)
    if file.suffix != ".json":
        # here, because a machine that is handed a job lacks what these import
        from benchmarks.studies import job_file
        from pipeline.system.console import UserError

        try:
            file = job_file(config)
        except UserError as error:
            sys.exit(f"error: {error}")
    elif not file.is_file():
        sys.exit(f"error: {file} is not there: expected an experiment of params.yaml, a study, or the file of a job")
    job: dict[str, Any] = json.loads(file.read_text())
    for key in ("packed", "files", "weights"):
        job[key] = str(file.resolve().parent / job[key]) if job[key] else None
    return job


def compare(
    job: dict[str, Any],
    rounds: int,
    epochs: int | None = None,
    images: int | None = None,
    device: str = "cpu",
    workers: int = 0,
    precision: str | None = None,
    contenders: tuple[str, ...] = CONTENDERS,
) -> dict[str, Any]:
    """Medians of each contender over rounds that take turns, their ratios, and the seconds of every round."""
    described = changed(job, epochs, images, device, workers, precision)
    config = described["config"]
    told = in_turns(contenders, described, rounds)
    trainer = told["trainer"]
    figures: dict[str, Any] = {
        "config": job["experiment"],
        "source": job["source"],
        "stands_in": job["stands_in"],
        "random_weights": job.get("random_weights", False),
        **{key: trainer[0][key] for key in ("images", "test_images", "steps")},
        "epochs": config["epochs"],
        "batch_size": config["batch_size"],
        "precision": config.get("precision", "fp32"),
        "device": device,
        "workers": workers,
        "rounds": rounds,
        "seconds": median(row["seconds"] for row in trainer),
        "load_seconds": median(row["load_seconds"] for row in trainer),
        "evaluation_seconds": median(row["evaluation_seconds"] for row in trainer),
        "accuracy": trainer[-1]["accuracy"],
        "peak_mb": max(row["peak_mb"] for row in trainer),
        "each_round": {name: [round(row["seconds"], 4) for row in rows] for name, rows in told.items()},
        "machine": machine(device),
    }
    if "device_peak_mb" in trainer[0]:
        figures["device_peak_mb"] = max(row["device_peak_mb"] for row in trainer)
    if usual := told.get("usual_loops"):
        figures |= {
            "usual_seconds": median(row["seconds"] for row in usual),
            "usual_evaluation_seconds": median(row["evaluation_seconds"] for row in usual),
            "usual_accuracy": usual[-1]["accuracy"],
            "usual_peak_mb": max(row["peak_mb"] for row in usual),
        }
        figures["ratio"] = ratio(usual, trainer)
    if limit := told.get("limit"):
        figures["limit_seconds"] = median(row["seconds"] for row in limit)
        figures["of_limit"] = ratio(trainer, limit)
    return figures


def changed(
    job: dict[str, Any],
    epochs: int | None,
    images: int | None,
    device: str,
    workers: int,
    precision: str | None,
) -> dict[str, Any]:
    """What contenders are told: the job as the command line wants it."""
    config = {**job["config"], **({"epochs": epochs} if epochs else {})}
    if precision is not None:
        if "precision" not in config:
            sys.exit("error: --precision: experiments have no key `precision`")
        config["precision"] = precision
    return {**job, "config": config, "images": images, "device": device, "workers": workers}


def profile(job: dict[str, Any], epochs: int, images: int | None, device: str, precision: str | None) -> str:
    """Where the trainer's time goes: operations and their shares, the largest first."""
    shares = run("benchmarks.profile", changed(job, epochs, images, device, 0, precision))["shares"]
    return ", ".join(f"`{name}` {share:.0%}" for name, share in shares.items())


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """The median over rounds: those who ran one after the other had the same machine."""
    return round(median(one["seconds"] / other["seconds"] for one, other in zip(ours, theirs, strict=True)), 2)


HEADS = (
    "experiment", "what ran", "usual loop, s", "trainer, s", "limit, s", "usual ÷ trainer", "trainer ÷ limit",
    "trainer, s an epoch", "accuracy, usual", "trainer", "peak MB",
)  # fmt: skip


def row(figures: dict[str, Any]) -> list[str]:
    rounds = figures["each_round"]
    return [
        f"`{figures['config']}`",
        what_ran(figures),
        *(spread(rounds[name]) for name in CONTENDERS),
        f"{figures['ratio']:.2f} ×",
        f"{figures['of_limit']:.2f} ×",
        short(figures["seconds"] / figures["epochs"]),
        f"{figures['usual_accuracy']:.4f}",
        f"{figures['accuracy']:.4f}",
        str(figures.get("device_peak_mb", figures["peak_mb"])),
    ]


def what_ran(figures: dict[str, Any]) -> str:
    said = f"{figures['images']:,} images × {figures['epochs']}, batch {figures['batch_size']}, {figures['precision']}"
    if figures["workers"]:
        said += f", {figures['workers']} workers"
    said += f"; {figures['source']} stands in" if figures["stands_in"] else ""
    return said + ("; random weights" if figures["random_weights"] else "")


def as_table(figures: dict[str, Any]) -> str:
    return f"{caption(figures)}\n\n{table(HEADS, [row(figures)])}"


if __name__ == "__main__":
    main()
