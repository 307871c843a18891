"""What a frozen backbone makes of a data set: it never changes, so it is computed once for each view of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from pipeline.dataset.batches import Batches, Rows
from pipeline.system.checksummed import checksummed_write, is_intact, remove_checksummed
from pipeline.system.console import progress, say

BATCH = 64  # images; larger ones are no faster on a CPU


class Features:
    """Stands for `images` (data.Batches) where only the head behind a frozen `backbone` trains: features (B, F).

    Every epoch sees another of `views` augmented versions of each image, in turn; None: a new one each epoch, if
    anything is random about them. The files with a view's features are in `folder`; they stay there, for other heads,
    where `views` says how many.
    """

    def __init__(self, backbone: nn.Module, images: Batches, config: Any, seed: int, folder: Path) -> None:
        self.backbone, self.images_of, self.config, self.seed, self.folder = backbone, images, config, seed, folder
        self.device, self.labels, self.classes = images.device, images.labels, images.classes
        self.views = config.views if images.draw(config.augment, seed, 1).numel() else 1
        self.file: Path | None = None
        self.checked: set[Path] = set()  # files that were whole when this process began to read them
        self.pixels: Rows

    def __len__(self) -> int:
        return len(self.labels)

    def unchanged(self) -> Features:
        """Of the images without augmentation."""
        self.show(0)
        return self

    def view(self, epoch: int) -> Features:
        self.show((epoch - 1) % self.views + 1 if self.views else epoch)
        return self

    def show(self, view: int) -> None:
        file = self.folder / f"view-{view}.npy"
        if file == self.file:
            return
        if self.file is not None and not self.views:
            remove_checksummed(self.file)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):  # a head that trains at the same time may want the same
            if file.exists() and file not in self.checked and not is_intact(file):
                say(f"{file} is damaged: computing its features again")
                remove_checksummed(file)
            if not file.exists():
                self.compute(file, view)
        self.checked.add(file)
        self.file = file
        self.pixels = Rows(file, np.arange(len(self)), self.device, self.images_of.pixels.budget)

    def compute(self, file: Path, view: int) -> None:
        images, config = self.images_of, self.config
        chosen = torch.arange(len(self), device=self.device).split(BATCH)
        draws = images.draw(config.augment, self.seed, view).to(self.device) if view else None
        self.backbone.eval()
        with checksummed_write(file) as partial, partial.open("wb") as out, torch.inference_mode():
            described = f"view {view} through the backbone" if view else "validation images through the backbone"
            bar = progress(zip(chosen, images.batches(chosen), strict=True), total=len(chosen), desc=described)
            for number, (positions, pixels) in enumerate(bar):
                given = images.images(pixels, config.augment, None if draws is None else draws[positions])
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    features = self.backbone(given).flatten(1).float().cpu().numpy()
                if not number:
                    header = {"descr": features.dtype.str, "fortran_order": False}
                    shape = (len(self), *features.shape[1:])
                    np.lib.format.write_array_header_1_0(out, {**header, "shape": shape})
                out.write(np.ascontiguousarray(features).data)

    def draw(self, config: Any, seed: int, epoch: int) -> Tensor:
        return torch.empty(len(self), 0)

    def mixes(self, config: Any) -> bool:
        return False

    def flips(self, config: Any) -> bool:
        return False  # mirrored features are not those of a mirrored image

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        return self.pixels.batches(chosen)

    def images(self, pixels: Tensor, config: Any = None, draws: Tensor | None = None) -> Tensor:
        return pixels
