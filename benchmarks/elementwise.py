"""Two square tensors multiplied element by element: the smallest measurement that was published, made honestly.

usage: python -m benchmarks.elementwise [--size N] [--rounds N] [--device NAME] [--json]

float32, as `a * b`, which makes a new tensor each time, and as `torch.mul(a, b, out=c)` into memory that is there. On
a GPU also with both factors copied to it and the product back. Every time is taken after the device has finished. The
limit is memory traffic: `c.add_(b)`, in the same turns, reads 8 bytes an element and writes 4 to where it has read (a
processor that writes elsewhere first fetches what it overwrites).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.side_by_side import caption, machine, median, spread, table

PUBLISHED = {"cpu": 0.0379, "cuda": 0.0144}  # seconds, for 10,000 × 10,000; hardware not told

IN_PLACE = "torch.mul(a, b, out=c)"
LIMIT = "limit: c.add_(b), the same bytes read and written in place"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elementwise", description=__doc__)
    parser.add_argument("--size", type=int, default=10_000, help="of a side; memory: 16 bytes × its square")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.size, arguments.rounds, arguments.device)
    print(json.dumps(figures, indent=2) if arguments.json else as_table(figures))


def measure(size: int, rounds: int, device: str) -> dict[str, Any]:
    first, second = torch.rand(2, size, size)
    a, b, c = first.to(device), second.to(device), torch.empty(size, size, device=device)
    ways: dict[str, Callable[[], object]] = {
        "a * b": lambda: a * b,
        IN_PLACE: lambda: torch.mul(a, b, out=c),
        LIMIT: lambda: c.add_(b),
    }
    if device != "cpu":
        ways["copied to the device and back"] = lambda: (first.to(device) * second.to(device)).cpu()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-1, rounds):  # the first one warms up
        for name, way in ways.items():
            taken = timed(way, device)
            if round_ >= 0:
                seconds[name].append(taken)
    kind = torch.device(device).type
    return {
        "size": size,
        "device": device,
        "rounds": rounds,
        "seconds": median(seconds[IN_PLACE]),
        "limit_seconds": median(seconds[LIMIT]),
        "published_seconds": PUBLISHED.get(kind) if size == 10_000 else None,
        "each_round": {name: [round(value, 6) for value in values] for name, values in seconds.items()},
        "machine": machine(device),
    }


def timed(way: Callable[[], object], device: str) -> float:
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def as_table(figures: dict[str, Any]) -> str:
    milliseconds = {name: [1000 * value for value in values] for name, values in figures["each_round"].items()}
    rows = [(name, spread(values)) for name, values in milliseconds.items()]
    if figures["published_seconds"]:
        rows.append(("published", f"{1000 * figures['published_seconds']:.1f}"))
    what = f"{figures['size']:,} × {figures['size']:,}, float32, {figures['device']}"
    return f"{caption(figures)}\n\n{table((what, 'ms'), rows)}"


if __name__ == "__main__":
    main()
