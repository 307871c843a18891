"""Residual networks for small images: He et al., arXiv 1512.03385, section 4.2, with two later corrections.

Both corrections are from He et al., arXiv 1812.01187. The last batch norm of a block starts at zero ("zero γ"), so that
the block starts as its shortcut. A shortcut that halves the image averages 2×2 pixels before its 1×1 convolution
(ResNet-D), because a strided 1×1 convolution looks at one pixel of four. Dropout stands between the two convolutions
of a block (Zagoruyko & Komodakis, arXiv 1605.07146).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.networks import Shape

if TYPE_CHECKING:
    from pipeline.config.networks import ResNetConfig


def build(network: ResNetConfig, shape: Shape) -> nn.Sequential:
    """A 3×3 convolution; stages of blocks, each but the first halving the image; mean over the image; linear.

    Convolutions start normal with variance 2 ÷ fan-out (He et al., arXiv 1502.01852).
    """
    channels = network.widths[0]
    modules: list[nn.Module] = [convolution(shape.channels, channels), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage, width in enumerate(network.widths):
        for block in range(network.blocks):
            modules.append(Block(channels, width, 2 if stage and not block else 1, network.dropout))
            channels = width
    model = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, shape.classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """ReLU of (convolution, batch norm, ReLU, dropout, convolution, batch norm) + shortcut.

    From (N, inputs, H, W) to (N, outputs, ⌈H ÷ stride⌉, ⌈W ÷ stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
            convolution(outputs, outputs),
            norm := nn.BatchNorm2d(outputs),
        )
        nn.init.zeros_(norm.weight)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if stride > 1 or inputs != outputs:
            self.shortcut.append(convolution(inputs, outputs, kernel=1)).append(nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        return (self.residual(images) + self.shortcut(images)).relu()
