"""The features that a frozen backbone gives: they never change, so each version of the images is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from pipeline.dataset.batches import Batches
from pipeline.dataset.rows import Rows
from pipeline.evaluation.inference import write_features
from pipeline.system.checksummed import checksummed_write, is_intact, remove_checksummed
from pipeline.system.console import progress, say
from pipeline.system.outputs import remove

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment
    from pipeline.config.experiments import TTA, Experiment

BATCH = 64  # images; larger batches are no faster on a CPU


def features_folder(parent: Path, settings: str, code: str) -> Path:
    """The folder below `parent` for the features of some `settings`, computed by some version of the `code`."""
    return parent / f"features@{settings}-{code}"


def remove_stale(folder: Path, shared: bool) -> None:
    """Remove the features beside those in `folder` that nothing will read again.

    Of `shared` features, those are the ones of the same settings by other code; of an experiment's own, all others.
    """
    settings = folder.name.rpartition("-")[0] if shared else "features@"
    for other in folder.parent.glob(f"{settings}*"):
        if other != folder:
            remove(other)


class Features:
    """Takes the place of `images` where only the head behind a frozen `backbone` trains: it gives features (B, F).

    A view is one augmented version of every image. Epochs use `config.views` views in turn, or, where that is None and
    the augmentation is random, one new view each. Every view is a file in `folder`; with `views` the files stay there
    for other heads.
    """

    def __init__(self, backbone: nn.Module, images: Batches, config: Experiment, seed: int, folder: Path) -> None:
        self.backbone, self.images_of, self.config, self.seed, self.folder = backbone, images, config, seed, folder
        self.device, self.labels, self.classes = images.device, images.labels, images.classes
        self.views = config.views if images.draw(config.augment, seed, 1).numel() else 1
        self.file: Path | None = None
        self.opened = 0  # the number of the view in `file`
        self.checked: set[Path] = set()  # files that this process has compared with their checksum
        self.pixels: Rows

    def __len__(self) -> int:
        return len(self.labels)

    def unchanged(self) -> Features:
        """The features of the images without augmentation."""
        self.open_view(0)
        return self

    def view(self, epoch: int) -> Features:
        """The features that an epoch, from 1, trains on."""
        self.open_view((epoch - 1) % self.views + 1 if self.views else epoch)
        return self

    def open_view(self, view: int) -> None:
        """Read view number `view` from its file, which is computed first where it is missing or damaged."""
        file = self.folder / f"view-{view}.npy"
        if file == self.file:
            return
        if self.file is not None and not self.views:
            remove_checksummed(self.file)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):  # another experiment that trains now may want the same view
            if file.exists() and file not in self.checked and not is_intact(file):
                say(f"{file} is damaged: computing its features again")
                remove_checksummed(file)
            if not file.exists():
                self.compute(file, view)
        self.checked.add(file)
        self.file, self.opened = file, view
        self.pixels = Rows(file, np.arange(len(self)), self.device, self.images_of.pixels.budget)

    def compute(self, file: Path, view: int) -> None:
        images, config = self.images_of, self.config
        chosen = torch.arange(len(self), device=self.device).split(BATCH)
        augmentation = self.drawn(view)
        described = f"view {view} through the backbone" if view else "validation images through the backbone"
        bar = progress(zip(chosen, images.batches(chosen), strict=True), total=len(chosen), desc=described)
        inputs = (
            images.images(pixels, config.augment, None if augmentation is None else augmentation[positions])
            for positions, pixels in bar
        )
        with checksummed_write(file) as partial:
            write_features(partial, self.backbone, inputs, len(self), self.device, config.precision)
        if config.views:
            say(
                f"{file}: {file.stat().st_size / 1e6:.1f} MB of features, kept for other heads; remove it when you like"
            )

    def drawn(self, view: int) -> Tensor | None:
        """The augmentation parameters of all images in a view; None in view 0, which is not augmented."""
        return self.images_of.draw(self.config.augment, self.seed, view).to(self.device) if view else None

    def pictures(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """What the backbone saw when it gave the features at `positions` of the open view."""
        images, augmentation = self.images_of, self.drawn(self.opened)
        (pixels,) = images.batches([positions])
        parameters = None if augmentation is None else augmentation[positions]
        return images.pictures(images.images(pixels, self.config.augment, parameters), positions)

    def draw(self, config: Augment, seed: int, epoch: int) -> Tensor:
        return torch.empty(len(self), 0)

    def mixes(self, config: Augment) -> bool:
        return False

    def tta(self, config: Experiment) -> TTA:
        return False  # mirrored features are not those of a mirrored image

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        return self.pixels.batches(chosen)

    def images(self, pixels: Tensor, config: Augment | None = None, augmentation: Tensor | None = None) -> Tensor:
        return pixels
