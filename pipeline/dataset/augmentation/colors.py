"""Changes of brightness, contrast and saturation."""

from __future__ import annotations

from torch import Tensor


def jitter(images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Change (B, C, H, W) images by the factors (B, 1) `brightness`, `contrast` and `saturation`, those that are drawn.

    As torchvision's adjust_brightness, adjust_contrast and adjust_saturation, in this order.
    """
    if "brightness" in drawn:
        images = blend(images, 0, drawn["brightness"])
    if "contrast" in drawn:
        images = blend(images, luma(images).mean((1, 2, 3), keepdim=True), drawn["contrast"])
    if "saturation" in drawn:
        images = blend(images, luma(images), drawn["saturation"])
    return images


def blend(images: Tensor, others: Tensor | float, factor: Tensor) -> Tensor:
    """`factor` (B, 1) parts of (B, C, H, W) images and 1 - `factor` parts of the others, within [0, 255]."""
    factor = factor[..., None, None]
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 255)


def luma(images: Tensor) -> Tensor:
    """(B, 1, H, W): the brightness of RGB as in ITU-R BT.601; of grey images, themselves."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red).add_(0.587 * green).add_(0.114 * blue)
