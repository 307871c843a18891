"""The picture of the first batch: exactly what the first step trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project
from PIL import Image
from test_training import files, interrupted_after_two, stage
from test_training import things as things
from things import CHANGES, CLASSES, DROPOUT, batches, config, digest, fit, fresh, opened, pack
from things import one_thread as one_thread
from things import packed as packed
from torch import Tensor, nn

from pipeline.dataset.packed import PackedDataset
from pipeline.training.distributed import ALONE
from pipeline.training.features import Features
from pipeline.training.first_batch import SHOWN, FirstBatch
from pipeline.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


class Reached(Exception):
    """The first step is over."""


def first_step(packed: PackedDataset, saved: Path, **more: Any) -> tuple[FirstBatch, Tensor]:
    """What is to be drawn of the first batch, and what the network was given, as numbers in [0, 255]."""
    experiment = config(**more)
    model, data, given = fresh(packed, experiment), batches(packed, "train"), []
    model.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].clone()) if module.training else None)
    first_batch = FirstBatch(CLASSES, ALONE)
    trainer = Trainer(model, experiment, data, None, 1, saved, first_batch=first_batch)
    trainer.run_epoch(1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in packed.normalization("dataset"))
    of_first = torch.cat(given[: experiment.grad_accum_steps])
    return first_batch, (of_first * std + mean) * 255


def images(first_batch: FirstBatch) -> Tensor:
    return torch.stack([image for image, _ in first_batch.tiles]).permute(0, 3, 1, 2)


MIXED = {"mixup": 0.4, "cutmix": 1.0}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"augment": CHANGES},
        {"augment": {**CHANGES, "random_erasing": {"probability": 0.7}, "brightness": 0.3}, "grad_accum_steps": 3},
        {"augment": MIXED},
        {"augment": {**CHANGES, **MIXED}, "grad_accum_steps": 2, "batch_size": "full"},
        {"batch_size": "full"},  # normalized once
    ],
)
def test_it_is_what_the_first_step_is_given(packed: PackedDataset, tmp_path: Path, more: dict[str, Any]) -> None:
    first_batch, given = first_step(packed, tmp_path / "saved.pt", **more)
    assert len(first_batch.tiles) == (31 if "batch_size" in more else 8)
    assert images(first_batch).equal(given.round().clamp(0, 255).byte())


def test_images_are_spread_over_a_large_batch(tmp_path: Path) -> None:
    packed = opened(pack(tmp_path / "packed/things", count=200))
    first_batch, given = first_step(packed, tmp_path / "saved.pt", batch_size="full")
    assert len(first_batch.tiles) == SHOWN
    spread = [number * len(given) // SHOWN for number in range(SHOWN)]
    assert images(first_batch).equal(given[spread].round().clamp(0, 255).byte())


def test_large_images_are_shown_small(tmp_path: Path) -> None:
    packed = opened(pack(tmp_path / "packed/things", count=20, height=300, width=600))
    first_batch, given = first_step(packed, tmp_path / "saved.pt", batch_size=2)
    assert images(first_batch).shape == (2, 3, 100, 200)
    assert images(first_batch).float().mean() == pytest.approx(given.mean().item(), abs=1)


def test_titles_are_the_classes_and_their_shares(packed: PackedDataset, tmp_path: Path) -> None:
    plain, _ = first_step(packed, tmp_path / "a.pt", shuffle=False)
    assert [title for _, title in plain.tiles] == [CLASSES[packed.labels[row]] for row in packed.rows("train")[:8]]
    mixed, given = first_step(packed, tmp_path / "b.pt", shuffle=False, augment={"mixup": 0.4})
    originals = torch.tensor(packed.images[packed.rows("train")[:8]]).permute(0, 3, 1, 2).float()
    shared = 0
    for number, (_, title) in enumerate(mixed.tiles):
        own, other = originals[number], originals[7 - number]
        names = [plain.tiles[number][1], plain.tiles[7 - number][1]]
        ratio = ((given[number] - other) * (own - other)).sum() / (own - other).square().sum()
        assert title == (names[0] if names[0] == names[1] else f"{names[0]} {ratio:.0%}\n{names[1]} {1 - ratio:.0%}")
        shared += "\n" in title
    assert shared


def test_it_changes_nothing(packed: PackedDataset, tmp_path: Path) -> None:
    everything = {"network": DROPOUT, "augment": CHANGES}
    expected, history = fit(packed, tmp_path / "a.pt", **everything)
    experiment = config(**everything)
    model = fresh(packed, experiment)
    data = batches(packed, "train"), batches(packed, "val")
    watched = Trainer(model, experiment, *data, 1, tmp_path / "b.pt", first_batch=FirstBatch(CLASSES, ALONE))
    assert watched.fit() == history
    assert digest(model) == digest(expected)


def test_of_a_frozen_backbone_it_is_what_the_backbone_saw(packed: PackedDataset, tmp_path: Path) -> None:
    seen: list[Tensor] = []
    backbone = nn.Flatten()
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    experiment = config(augment=CHANGES, shuffle=False)
    images_of = batches(packed, "train")
    for _ in range(2):  # computed, and read from the file
        first_batch = FirstBatch(CLASSES, ALONE)
        data = Features(backbone, images_of, experiment, 1, tmp_path / "features")
        data.views = 1
        Trainer(nn.Linear(90, 3), experiment, data, None, 1, tmp_path / "none.pt", first_batch=first_batch).run_epoch(1)
        expected = images_of.pictures(seen[0][:8], torch.arange(8)).round().clamp(0, 255).byte()
        assert images(first_batch).equal(expected)
    assert len(seen) == 1


def test_stage_draws_the_same_bytes_also_after_an_interruption(
    things: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything: dict[str, Any] = {"augment": {**CHANGES, **MIXED}, "epochs": 3, "seeds": 2}
    drawn = []
    for broken in (False, True):
        if broken:
            interrupted_after_two(things, monkeypatch, "things-mlp", **everything)
        stage(things, monkeypatch, "things-mlp", **everything)
        drawn.append(files(things.root / "reports")["things-mlp/train_batch.png"])
    assert drawn[0] == drawn[1]
    with Image.open(things.root / "reports/things-mlp/train_batch.png") as picture:
        assert picture.size == (1020, 420)  # 8 images, 6 in a row, scaled up so that they can be seen
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
