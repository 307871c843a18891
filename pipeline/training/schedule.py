"""The learning rate over a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config.experiments import Schedule

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000  # as fractions of the largest lr, torch's OneCycleLR's defaults


def lr_factor(schedule: Schedule, progress: float) -> float:
    """What to multiply every learning rate by after `progress` (0 to below 1) of all steps.

    One-cycle: Smith 2018, arXiv 1803.09820, with cosines up and down; cosine: Loshchilov & Hutter 2016, 1608.03983.
    """
    start, end = (ONE_CYCLE_START, ONE_CYCLE_END) if schedule.name == "one_cycle" else (0.0, 0.0)
    if progress < schedule.warmup:
        warmed = progress / schedule.warmup
        if schedule.name == "one_cycle":
            warmed = (1 - math.cos(math.pi * warmed)) / 2
        return start + (1 - start) * warmed
    if schedule.name == "constant":
        return 1.0
    done = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "linear":
        return 1 - done
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
