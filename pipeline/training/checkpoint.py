"""The state of a training run between two epochs, kept outside DVC's outputs, which are deleted at every start."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.console import UserError
from pipeline.outputs import whole


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers and strings."""
    with whole(path) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch hides a full disk in one
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(path: Path, restore: Any, once: Callable[[Callable[[], Any]], Any]) -> None:
    """Give the state in `path`, on the CPU, to `restore`; nothing, if there is no such file.

    `once` (see distributed.Group) reads the file for all processes: it may be on the first one's machine only.
    Raises UserError for a file that is damaged, or that holds the state of something else.
    """
    contents = once(lambda: path.read_bytes() if path.exists() else None)
    if contents is None:
        return
    try:
        restore(torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True))
    except Exception as error:  # unpickling raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no whole checkpoint ({reason}): remove it to train from the start") from None
