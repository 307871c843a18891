"""Where a convolutional network looks: Grad-CAM (Selvaraju et al., arXiv 1610.02391), by captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.system.console import UserError, require

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

STRENGTH = 0.6  # of the colors over the image, where the network looks most
EXPLAINED = 256  # pixels: the shorter side of an image that is enlarged, so that the colors are smooth

Explain = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]


def explainer(model: Model) -> Explain:
    """A function from pixels (H, W, C) uint8 and a class to the image under colors, (H', W', 3) uint8.

    The colors show what in the last map of features speaks for the class. Raises UserError for a network without any.
    """
    layer = last_map(model)
    if layer is None:
        raise UserError(
            f"{model.folder}: its network has no convolution that tells places apart: Grad-CAM can't explain it"
        )
    require("explaining", "captum")

    from captum.attr import LayerAttribution, LayerGradCam

    grad_cam = LayerGradCam(model.network, layer)

    def explain(pixels: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
        images = model.images(np.stack([pixels])).requires_grad_()  # through frozen layers too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of algorithms that a GPU has no deterministic version of
            found = grad_cam.attribute(images, target=model.classes.index(label), relu_attributions=True)
        scale = max(1, round(EXPLAINED / min(pixels.shape[:2])))
        size = (scale * pixels.shape[0], scale * pixels.shape[1])
        heat = LayerAttribution.interpolate(found, size, "bilinear")[0, 0].detach().cpu().numpy()
        return overlay(pixels.repeat(scale, 0).repeat(scale, 1), heat)

    return explain


def last_map(model: Model) -> nn.Module | None:
    """The last module behind a convolution whose output still tells places apart; a global pooling's does not.

    A block of several branches, as SqueezeNet ends with, counts as a whole. None for a network that goes on with
    tokens, or with channels last, as transformers do.
    """
    found: list[nn.Module] = []
    convolved = False
    shape = model.shape

    def remember(module: nn.Module, _: object, output: object) -> None:
        nonlocal convolved
        convolved |= isinstance(module, nn.Conv2d)
        if not convolved or not isinstance(output, Tensor):
            return
        if output.ndim == 4 and is_map(output):
            if output.shape[2] * output.shape[3] > 1:
                found.append(module)
        elif output.ndim > 2:
            found.clear()

    def is_map(output: Tensor) -> bool:
        """Whether the last two of four sides are those of the image, on a smaller scale."""
        height, width = output.shape[2:]
        return abs(height * shape.width - width * shape.height) <= max(shape.height, shape.width)

    hooks = [module.register_forward_hook(remember) for module in model.network.modules()]
    with torch.no_grad():
        model.network(model.images(np.zeros((1, shape.height, shape.width, shape.channels), np.uint8)))
    for hook in hooks:
        hook.remove()
    return found[-1] if found else None


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image (H, W, C) under the colors of (H, W) values from 0: the larger, the stronger."""
    from matplotlib import colormaps

    share = heat / max(float(heat.max()), 1e-12)
    colors = 255 * colormaps["inferno"](share)[..., :3]
    weight = STRENGTH * share[..., None]
    mixed = (1 - weight) * pixels + weight * colors
    return mixed.astype(np.uint8)
