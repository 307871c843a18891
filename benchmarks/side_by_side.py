"""Contenders in turns, each a process of its own, and what a table has to say of the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def in_turns(contenders: Sequence[str], job: dict[str, Any], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each contender, a module of this package, printed in each round."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            told[name].append(run(f"benchmarks.{name}", job))
    return told


def run(module: str, job: dict[str, Any], **variables: str) -> dict[str, Any]:
    """The JSON that a module prints as its last line when it is handed `job`, with these environment variables."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(job), env=environment, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        sys.exit(f"error: {module}: {last.removeprefix('error: ')}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def median(values: Iterable[float]) -> float:
    return float(f"{statistics.median(values):.4g}")


def spread(values: Sequence[float]) -> str:
    """`1.23 (1.20–1.31)`: median, smallest and largest."""
    return f"{short(statistics.median(values))} ({short(min(values))}–{short(max(values))})"


def short(value: float) -> str:
    """Three digits, without exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Hardware and versions."""
    import torch

    described: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision")},
    }
    if device.startswith("cuda"):
        described |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return described


def processor() -> str:
    names = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", names.read_text(), re.MULTILINE) if names.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def in_words(described: dict[str, Any]) -> str:
    gpu = f"{described['gpu']} (CUDA {described['cuda']}), " if "gpu" in described else ""
    return (
        f"{gpu}{described['cores']} cores of {described['processor']}, {described['memory_gb']} GB, torch with"
        f" {described['threads']} threads; Python {described['python']}, torch {described['torch']},"
        f" torchvision {described['torchvision']}"
    )


def caption(figures: dict[str, Any]) -> str:
    """What stands above a table: `machine`, and `rounds` of contenders that took turns."""
    return f"{in_words(figures['machine'])}; {figures['rounds']} rounds in turns: median (smallest–largest)."
