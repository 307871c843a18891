"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from typing import Any

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000  # of the largest rate, as torch's OneCycleLR has them


def factor(config: Any, progress: float) -> float:
    """What to multiply the learning rate with after `progress` (0 to below 1) of all steps; see experiments.Schedule.

    One-cycle: Smith 2018, arXiv 1803.09820, with cosines up and down; cosine: Loshchilov & Hutter 2016, 1608.03983.
    """
    start, end = (ONE_CYCLE_START, ONE_CYCLE_END) if config.name == "one_cycle" else (0.0, 0.0)
    if progress < config.warmup:
        warmed = progress / config.warmup
        if config.name == "one_cycle":
            warmed = (1 - math.cos(math.pi * warmed)) / 2
        return start + (1 - start) * warmed
    if config.name == "constant":
        return 1.0
    done = (progress - config.warmup) / (1 - config.warmup)
    if config.name == "linear":
        return 1 - done
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
