"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Averages the weights and statistics of `model` into a copy of it, `self.model`."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model), decay
        self.averages, self.values = floating_point(self.model), floating_point(model)

    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 0."""
        get_ema_multi_avg_fn(decay_at(self.decay, step))(self.averages, self.values, None)


def decay_at(decay: float, step: int) -> float:
    """The decay in a step: small in the first ones, so that the random start does not stay in the average for long.

    TensorFlow's ExponentialMovingAverage does the same.
    """
    return min(decay, (1 + step) / (10 + step))


def floating_point(model: nn.Module) -> list[Tensor]:
    """The weights and statistics that can be averaged; a counter of batches can't."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
