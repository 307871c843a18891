"""The state of a training run between two epochs, kept outside DVC's outputs, which are deleted at every start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.console import UserError
from pipeline.outputs import whole

Row = dict[str, float | int | None]  # of history.csv: epoch, losses and accuracies


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[Row]) -> None:
    # a frozen backbone is in its own file already
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - trained
    state: dict[str, Any] = {
        "model": {name: value for name, value in model.state_dict().items() if name not in frozen},
        "optimizer": optimizer.state_dict(),
        "history": history,
    }
    with whole(path) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch hides a full disk in one
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Row]:
    """Restore model and optimizer in place and return the history; if there is no checkpoint, an empty one.

    Raises UserError for a file that is damaged.
    """
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        return state["history"]
    except Exception as error:  # unpickling raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no whole checkpoint ({reason}): remove it to train from the start") from None
