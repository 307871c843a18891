"""Run every benchmark of training and start-up once and write the tables of docs/benchmarks.md; the prose stays.

usage: python -m benchmarks.document [--device NAME] [TABLE …]

The tables are `studies`, `conditions`, `queue`, `peers`, `growth`, `repro`, `startup`, `predict` and `elementwise`.
They are of one device, cuda if there is one: a machine with a GPU writes its own tables and leaves those of the CPU as
they are, and the reverse; `conditions`, `queue`, `repro` and `startup` are of a CPU.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import conditions, elementwise, peers, predict, queue, repro, startup, train
from benchmarks.side_by_side import caption, spread, table

DOCUMENT = Path("docs/benchmarks.md")
ROUNDS = 5


class Row(NamedTuple):
    """A study, how much of it is run, and how many times faster than the usual loop it is to be."""

    config: str
    goal: float
    epochs: int
    images: int | None = None  # of the training set, where all take too long on a CPU
    precision: str | None = None


STUDIES = {
    "cpu": [
        Row("mnist-mlp", 8, epochs=10),
        Row("mnist-gd", 1.2, epochs=20),
        Row("fashion-mnist-mlp", 4, epochs=2),
        Row("cifar10-mlp", 5, epochs=2),
        Row("cats-dogs-cnn", 5, epochs=1, images=2_000),
        Row("cats-dogs-alexnet", 2, epochs=1, images=1_000),
        Row("cats-dogs-alexnet", 5, epochs=1, images=1_000, precision="bf16"),
    ],
    "cuda": [
        Row("mnist-mlp", 25, epochs=10),
        Row("mnist-gd", 2, epochs=100),
        Row("fashion-mnist-mlp", 25, epochs=10),
        Row("cifar10-mlp", 20, epochs=2),
        Row("cats-dogs-cnn", 10, epochs=3),
        Row("cats-dogs-alexnet", 20, epochs=3),
    ],
}
PEERS: dict[str, list[dict[str, Any]]] = {
    "cpu": [
        {"config": "cats-dogs-cnn", "rounds": 3, "epochs": 1, "images": 500},
        {"config": "cifar10-resnet", "rounds": 3, "epochs": 1, "images": 5_000, "precision": "fp32"},
    ],
    "cuda": [
        {"config": "cats-dogs-cnn", "rounds": 3, "epochs": 1, "images": 5_000},
        {"config": "cifar10-resnet", "rounds": 5, "epochs": 10, "images": None},  # all: to 94 %
    ],
}
ONLY_CPU = ("conditions", "queue", "repro", "startup")
WORKERS = {"cpu": 0, "cuda": 10}  # of the usual loop: none is faster than one a core where all cores train
SMALL = "digits-cnn"  # of networks as small, the one that is portable
GROWING = ("mnist-mlp", 6_000)  # images, times 1, 10 and 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.document", description=__doc__)
    parser.add_argument("--device", choices=STUDIES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("tables", nargs="*", help=f"only these: {', '.join(TABLES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no table {', '.join(unknown)}: expected some of {', '.join(TABLES)}")
    known = [name for name in TABLES if arguments.device == "cpu" or name not in ONLY_CPU]
    tables = arguments.tables or known
    for config in experiments(tables, arguments.device):
        train.read_job(config)  # packs its images, and exits where they are missing: before hours of work, not after
    for name in tables:
        print(f"{name} …", file=sys.stderr, flush=True)
        section = name if name in ONLY_CPU else f"{name} {arguments.device}"
        text = TABLES[name](arguments.device)
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), section, text))


def experiments(tables: list[str], device: str) -> list[str]:
    """Those that the tables train, each once."""
    studied = [row.config for row in STUDIES[device]]
    trained = {
        "studies": studied,
        "conditions": [SMALL, *studied],
        "peers": [compared["config"] for compared in PEERS[device]],
        "growth": [GROWING[0]],
    }
    return list(dict.fromkeys(config for table in tables for config in trained.get(table, ())))


def replaced(document: str, section: str, text: str) -> str:
    """The document with `text` between the two markers of a section. Exits where they are not there."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    new, found = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", document, flags=re.DOTALL)
    if not found:
        sys.exit(f"error: {DOCUMENT} has no section {section!r}: expected the lines {begin} and {end}")
    return new


def studies(device: str) -> str:
    rows, profiles, figures = [], [], {}
    for study in STUDIES[device]:
        job = train.read_job(study.config)
        if study.precision and not can_choose_bf16(job):
            continue
        how = {"epochs": study.epochs, "images": study.images, "precision": study.precision, "device": device}
        figures = train.compare(job, ROUNDS, **how, workers=WORKERS[device])
        rows.append([*train.row(figures), f"≥ {study.goal:g} ×"])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        profiles.append((rows[-1][0], figures["precision"], train.profile(job, **how)))
    measured = table([*train.HEADS, "goal, usual ÷ trainer"], rows)
    return f"{caption(figures)}\n\n{measured}\n\n{table(('experiment', '', 'where the time goes'), profiles)}"


def can_choose_bf16(job: dict[str, Any]) -> bool:
    """Whether experiments know a precision, and this processor has instructions for it."""
    return "precision" in job["config"] and torch.cpu._is_avx512_bf16_supported()


def all_conditions(device: str) -> str:
    rows = [Row(SMALL, 0, epochs=20), *(row for row in STUDIES[device] if not row.precision)]
    return conditions.as_table([conditions.measure(row.config, row.epochs, row.images, ROUNDS) for row in rows])


def queues(device: str) -> str:
    return queue.as_table(queue.measure(ROUNDS))


def growth(device: str) -> str:
    config, images = GROWING
    rows = []
    for factor in (1, 10, 100):
        count = factor * images
        figures = train.compare(
            train.read_job(config), ROUNDS, epochs=1, images=count, device=device, contenders=("trainer",)
        )
        seconds = figures["each_round"]["trainer"]
        rate = f"{count / figures['seconds']:,.0f}"
        rows.append((f"{count:,}", spread(seconds), rate, figures["peak_mb"]))
    heads = (f"images, `{config}`, 1 epoch", "trainer, s", "images/s", "peak MB")
    return f"{caption(figures)}\n\n{table(heads, rows)}"


def other_frameworks(device: str) -> str:
    found = [peers.measure(device=device, workers=WORKERS[device], **compared) for compared in PEERS[device]]
    return "\n\n".join(map(peers.as_table, found))


def whole_runs(device: str) -> str:
    return repro.as_table(repro.measure())


def startups(device: str) -> str:
    return startup.as_table(startup.measure(ROUNDS))


def predictions(device: str) -> str:
    return predict.as_table(predict.measure(ROUNDS, device=device))


def elementwises(device: str) -> str:
    return elementwise.as_table(elementwise.measure(10_000, 10, device))


TABLES: dict[str, Callable[[str], str]] = {
    "studies": studies,
    "conditions": all_conditions,
    "queue": queues,
    "peers": other_frameworks,
    "growth": growth,
    "repro": whole_runs,
    "startup": startups,
    "predict": predictions,
    "elementwise": elementwises,
}

if __name__ == "__main__":
    main()
