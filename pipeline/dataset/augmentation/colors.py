"""What changes of color have in common."""

from __future__ import annotations

from torch import Tensor


def blend(images: Tensor, others: Tensor | float, factor: Tensor) -> Tensor:
    """`factor` (B, 1) parts of (B, C, H, W) images and 1 - `factor` parts of the others, within [0, 255]."""
    factor = factor[..., None, None]
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 255)


def luma(images: Tensor) -> Tensor:
    """(B, 1, H, W): the brightness of RGB as in ITU-R BT.601; of gray images, themselves."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red).add_(0.587 * green).add_(0.114 * blue)
