"""Training beside the loops of other frameworks, on the same images for the same number of epochs.

usage: python -m benchmarks.peers [--config NAME] [--epochs N] [--images N] [--rounds N] [--device NAME] [--workers N]
                                  [--precision fp32|bf16] [--json]

In turns, each in a process of its own. For photos, cats-dogs-cnn, all train the same network by the same batches:
benchmarks.usual_loops, Lightning's Trainer on the same data set, fastai's Learner with its own loading and
augmentation, a loop on what DALI loads and augments, and this project's trainer. For CIFAR-10, cifar10-resnet: airbench
with its own network and experiment, and this project's trainer.
The others are installed into a folder of their own in .venv, beside the packages that are there (on Linux; 700 MB):
nothing here depends on them. Seconds are of training alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import REPOSITORY, caption, in_turns, machine, spread, table
from benchmarks.train import changed, ratio, read_job, what_ran

CONTENDERS = {
    "cats-dogs-cnn": {
        "usual_loops": "the usual loop",
        "lightning_loop": "Lightning's Trainer",
        "fastai_loop": "fastai's Learner",
        "dali_loop": "the loop with DALI",
        "trainer": "this trainer",
    },
    "cifar10-resnet": {"airbench_loop": "airbench94", "trainer": "this trainer"},
}
PACKAGES = ("pytorch-lightning", "fastai", "nvidia-dali-cuda130", "airbench")
FOLDER = REPOSITORY / f".venv/peers-{zlib.crc32(' '.join(PACKAGES).encode()):08x}"
# of these the project's own serve, or, spaCy's, nothing here does
NOT_AGAIN = ("torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "pillow", "scikit-learn", "spacy")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--config", choices=CONTENDERS, default="cats-dogs-cnn")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--workers", type=int, default=0, help="of the others' DataLoaders")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of this trainer, instead of the experiment's")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    change = {key: getattr(arguments, key) for key in ("epochs", "images", "device", "workers", "precision")}
    figures = measure(arguments.config, arguments.rounds, **change)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def measure(
    config: str,
    rounds: int,
    epochs: int,
    images: int | None,
    device: str,
    workers: int,
    precision: str | None = None,
) -> dict[str, Any]:
    install()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = changed(read_job(config), epochs, images, device, workers, precision)
    told = in_turns(tuple(CONTENDERS[config]), job, rounds)
    contenders = {
        described: {
            "each_round": [round(row["seconds"], 4) for row in told[name]],
            "against_trainer": ratio(told[name], told["trainer"]),
            "accuracy": told[name][-1]["accuracy"],
            "peak_mb": max(row["peak_mb"] for row in told[name]),
        }
        for name, described in CONTENDERS[config].items()
    }
    ran = {"images": told["trainer"][0]["images"], "epochs": epochs, "workers": workers, "rounds": rounds}
    ran |= {key: job["config"].get(key, "fp32") for key in ("batch_size", "precision")}
    ran |= {"config": config, "source": job["source"], "stands_in": job["stands_in"], "random_weights": False}
    return {**ran, "contenders": contenders, "machine": machine(device)}


def install() -> None:
    if FOLDER.exists():
        return
    with tempfile.TemporaryDirectory(prefix="peers-", dir=FOLDER.parent) as folder:
        overrides, made = Path(folder, "overrides.txt"), Path(folder, "made")
        overrides.write_text("".join(f"{name}; python_version < '3'\n" for name in NOT_AGAIN))
        uv = str(Path(sys.executable).with_name("uv"))
        where = ["--quiet", "--compile-bytecode", "--target", str(made), "--overrides", str(overrides)]
        subprocess.run([uv, "pip", "install", *where, *PACKAGES], check=True)
        made.rename(FOLDER)


def as_table(figures: dict[str, Any]) -> str:
    rows = [
        (name, spread(row["each_round"]), f"{row['against_trainer']:.2f} ×", f"{row['accuracy']:.4f}", row["peak_mb"])
        for name, row in figures["contenders"].items()
    ]
    heads = (f"`{figures['config']}`, {what_ran(figures)}", "seconds", "÷ trainer", "accuracy")
    return f"{caption(figures)}\n\n{table((*heads, 'peak MB'), rows)}"


if __name__ == "__main__":
    main()
