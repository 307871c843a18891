"""Rectangles of pixels, one for each image."""

from __future__ import annotations

import torch
from torch import Tensor


def span(start: Tensor, stop: Tensor, side: int) -> Tensor:
    """Which of `side` pixels are between (B,) start and stop: (B, side) bool."""
    pixels = torch.arange(side, device=start.device)
    return (start[:, None] <= pixels) & (pixels < stop[:, None])


def rectangle(down: Tensor, across: Tensor) -> Tensor:
    """(B, H) and (B, W) to (B, 1, H, W) bool."""
    return down[:, None, :, None] & across[:, None, None, :]
