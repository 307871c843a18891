"""Stage `features`: compute what a pretrained backbone sees in every packed image, once.

The backbone stays as it is. `data/features/DATASET.npy` has a row for each image, in the order of `data/packed`.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import params
from pipeline.config.networks import TimmConfig
from pipeline.system.console import UserError, progress, say
from pipeline.system.outputs import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from pipeline.config.features import FeaturesConfig
    from pipeline.dataset.packed import PackedImages

CHANNELS = 3  # that pretrained backbones take
BATCH = 64  # images; larger batches are no faster on a CPU


def main(name: str) -> None:
    config = params.load().features_of(name)
    weights = Path(config.weights)
    if not weights.is_file():
        raise UserError(
            f"{weights} is not there: expected the weights that features.{name}.weights in params.yaml names"
        )

    from pipeline.config.experiments import Compute
    from pipeline.dataset.packed import PackedImages
    from pipeline.evaluation.inference import write_features
    from pipeline.system.device import make_deterministic, select_device

    packed = PackedImages(Path("data/packed", name))
    packed.verify()
    device, threads = select_device(Compute())
    make_deterministic(device, threads, config.precision)
    backbone = load_backbone(config, packed, weights).to(device)
    count = len(packed.images)
    file = Path("data/features", f"{name}.npy")
    with atomic_write(file) as partial:
        write_features(partial, backbone, batches(config, packed, device), count, device, config.precision)
    say(f"{name}: {count:,} images through {config.network.model} on {device}, {file.stat().st_size / 1e6:.1f} MB")


def load_backbone(config: FeaturesConfig, packed: PackedImages, weights: Path) -> nn.Module:
    """The backbone with its weights, for fast convolutions. Raises UserError as `networks.build` does."""
    import torch

    from pipeline.networks import Shape, build

    height, width = image_size(config, packed)
    model = build(config.network, Shape(CHANNELS, height, width, 1), weights)
    backbone: nn.Module = model.backbone  # type: ignore[assignment]
    return backbone.to(memory_format=torch.channels_last)


def image_size(config: FeaturesConfig, packed: PackedImages) -> tuple[int, int]:
    """Height and width of the images that the backbone gets: the shorter side is `size`."""
    height, width = packed.meta["height"], packed.meta["width"]
    scale = config.size / min(height, width) if config.size else 1
    return round(height * scale), round(width * scale)


def batches(config: FeaturesConfig, packed: PackedImages, device: torch.device) -> Iterator[Tensor]:
    """The images as the backbone takes them, (B, 3, H, W) float32 on the device: scaled, normalized."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    from pipeline.dataset.normalize import Normalize
    from pipeline.dataset.packed import NORMALIZATIONS
    from pipeline.dataset.rows import Rows

    network = config.network
    mean, std = network.normalization() if isinstance(network, TimmConfig) else NORMALIZATIONS["imagenet"]
    normalize = Normalize(mean, std, device)
    size, count = image_size(config, packed), len(packed.images)
    rows = Rows(packed.file, np.arange(count), device, budget=0)
    chosen = torch.arange(count).split(BATCH)
    for pixels in progress(rows.batches(chosen), total=len(chosen), unit=" batches"):
        images = pixels.permute(0, 3, 1, 2).expand(-1, CHANNELS, -1, -1).float()
        if size != images.shape[2:]:
            images = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 255)
        yield normalize(images).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    run_stage("features", main, "DATASET", __doc__)
