"""Training: batches and the loop, against plain torch; the stage `train`, against interruptions."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import ENVIRONMENT, REPOSITORY, Project, Ran, failed_in_one_line, run_or_skip
from conftest import run as run_command
from samples import bit_flipped
from things import (
    ADAM,
    CHANGES,
    CLASSES,
    CPU,
    DROPOUT,
    MLP,
    SGD,
    Runs,
    batches,
    config,
    digest,
    everything,
    fit,
    fresh,
    opened,
    pack,
    splits_of,
)
from things import one_thread as one_thread
from things import packed as packed
from torch import Tensor, nn

from pipeline import train
from pipeline.config.experiments import Compute, Normalization, OptimizerConfig
from pipeline.dataset.batches import Batches
from pipeline.dataset.packed import PackedDataset
from pipeline.dataset.rows import Rows
from pipeline.evaluation import inference
from pipeline.networks import Shape, build
from pipeline.system import memory
from pipeline.system.console import UserError, run
from pipeline.system.device import make_deterministic, select_device
from pipeline.training import checkpoint, live, outputs, setup, times
from pipeline.training.data import TrainingData
from pipeline.training.distributed import ALONE
from pipeline.training.model import has_small_steps, summary
from pipeline.training.optimizers import make_optimizers
from pipeline.training.trainer import Row, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


# --- The same mathematics as the usual loop --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "usual"),
    [
        (SGD, lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9)),
        (
            {**SGD, "nesterov": True, "weight_decay": 0.1},
            lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        ),
        (ADAM, lambda weights: torch.optim.Adam(weights, lr=0.01)),
        ({**ADAM, "weight_decay": 0.1}, lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.1)),
        (
            {"name": "adamw", "lr": 0.01, "weight_decay": 0.3},
            lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.3),
        ),
    ],
)
def test_losses_are_those_of_the_usual_loop(
    packed: PackedDataset, tmp_path: Path, described: dict[str, Any], usual: Callable[[Any], torch.optim.Optimizer]
) -> None:
    model, history = fit(packed, tmp_path / "saved.pt", optimizer=described, epochs=3, shuffle=False)

    expected = fresh(packed, config())
    optimizer = usual(expected.parameters())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in packed.normalization("dataset"))
    images = (torch.tensor(np.array(packed.images)).permute(0, 3, 1, 2) / 255 - mean) / std
    labels = torch.tensor([CLASSES.index(label) for label in packed.table.label])
    train_rows, val_rows = range(31), slice(31, 38)
    for row in history:
        total, correct = 0.0, 0
        for start in range(0, 31, 8):
            rows = list(train_rows[start : start + 8])
            logits = expected(images[rows])
            loss = nn.CrossEntropyLoss()(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            correct += int((logits.argmax(1) == labels[rows]).sum())
        assert row["train_loss"] == pytest.approx(total / 31, rel=1e-4)
        assert row["train_accuracy"] == pytest.approx(correct / 31)
        with torch.no_grad():
            logits = expected(images[val_rows])
        assert row["val_loss"] == pytest.approx(F.cross_entropy(logits, labels[val_rows]).item(), rel=1e-4)
        assert row["val_accuracy"] == (logits.argmax(1) == labels[val_rows]).double().mean().item()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert history[-1]["train_loss"] < history[0]["train_loss"]  # and it learns


def test_log_softmax_at_the_end_changes_no_loss(packed: PackedDataset, tmp_path: Path) -> None:
    _, plain = fit(packed, tmp_path / "a.pt")
    _, with_it = fit(packed, tmp_path / "b.pt", network={**MLP, "log_softmax": True})
    for row, other in zip(plain, with_it, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("biases", [True, False])
def test_l1_adds_its_sign_to_the_gradient(packed: PackedDataset, tmp_path: Path, biases: bool) -> None:
    one_step = {"optimizer": {"name": "sgd", "lr": 0.5}, "batch_size": "full", "epochs": 1, "shuffle": False}
    start = fresh(packed, config())
    plain, unpenalized = fit(packed, tmp_path / "a.pt", **one_step)
    model, penalized = fit(packed, tmp_path / "b.pt", **one_step, regularization={"l1": 0.01, "biases": biases})
    for (name, before), without, with_it in zip(
        start.named_parameters(), plain.parameters(), model.parameters(), strict=True
    ):
        counts = biases or not name.endswith("bias")
        expected = without - 0.5 * 0.01 * before.sign() * counts
        assert torch.allclose(with_it, expected, atol=1e-6), name
        assert counts == (not torch.allclose(with_it, without, atol=1e-6)), name
    # what is reported stays comparable
    assert penalized[0]["train_loss"] == pytest.approx(unpenalized[0]["train_loss"])


# --- Order, batches, seeds -------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Keeps what it is given, as numbers in [0, 255]."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, len(CLASSES))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.append((images * 255).round().to(torch.uint8))
        return self.linear(images.flatten(1))


def watch(packed: PackedDataset, saved: Path, seed: int = 1, **more: Any) -> list[Tensor]:
    model = Watched(int(np.prod(packed.images.shape[1:])))
    Trainer(
        model, config(normalize="none", **more), batches(packed, "train", normalize="none"), None, seed, saved
    ).fit()
    return model.seen


def test_file_order_without_shuffle(packed: PackedDataset, tmp_path: Path) -> None:
    seen = watch(packed, tmp_path / "saved.pt", shuffle=False)
    assert [len(batch) for batch in seen] == [8, 8, 8, 7] * 2
    in_order = torch.tensor(packed.images[:31]).permute(0, 3, 1, 2)
    assert torch.cat(seen).equal(torch.cat([in_order, in_order]))


def test_shuffled_anew_every_epoch_and_every_image_once(packed: PackedDataset, tmp_path: Path) -> None:
    seen = torch.cat(watch(packed, tmp_path / "a.pt")).flatten(1)
    epochs = seen[:31], seen[31:]
    in_order = torch.tensor(packed.images[:31]).permute(0, 3, 1, 2).flatten(1)
    for epoch in epochs:
        assert not epoch.equal(in_order)
        assert sorted(map(bytes, epoch.numpy())) == sorted(map(bytes, in_order.numpy()))
    assert not epochs[0].equal(epochs[1])
    assert torch.cat(watch(packed, tmp_path / "b.pt")).flatten(1).equal(seen)
    assert not torch.cat(watch(packed, tmp_path / "c.pt", seed=2)).flatten(1).equal(seen)


@pytest.mark.parametrize(("size", "sizes"), [("full", [31]), (31, [31]), (1000, [31]), (30, [30, 1]), (1, [1] * 31)])
def test_sizes_of_batches(packed: PackedDataset, tmp_path: Path, size: Any, sizes: list[int]) -> None:
    assert [len(batch) for batch in watch(packed, tmp_path / "saved.pt", batch_size=size, epochs=1)] == sizes


def test_last_image_joins_the_batch_before_it_under_batch_norm(packed: PackedDataset, tmp_path: Path) -> None:
    described = {"name": "mlp", "hidden": [4], "batch_norm": True}
    steps = []
    for size in (30, 10):  # 31 images
        model, _ = fit(packed, tmp_path / f"{size}.pt", network=described, batch_size=size, epochs=1)
        steps.append(model[2].num_batches_tracked.item())
    assert steps == [1, 3]
    with pytest.raises(UserError, match=r"batch_size = 1: batch norm"):
        fit(packed, tmp_path / "1.pt", network=described, batch_size=1)


class WithFrozenNorm(Watched):
    def __init__(self, values: int) -> None:
        super().__init__(values)
        self.norm = nn.BatchNorm1d(values)

    def train(self, mode: bool = True) -> WithFrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


def test_frozen_batch_norm_takes_a_batch_of_one(packed: PackedDataset, tmp_path: Path) -> None:
    model = WithFrozenNorm(90)
    Trainer(model, config(batch_size=30, epochs=1), batches(packed, "train"), None, 1, tmp_path / "saved.pt").fit()
    assert [len(batch) for batch in model.seen] == [30, 1]


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_same_seed_same_bytes_also_after_an_interruption(
    packed: PackedDataset, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    everything = {"network": DROPOUT, "augment": CHANGES, "optimizer": optimizer, "epochs": 4}
    model, history = fit(packed, tmp_path / "a.pt", **everything)
    again, same = fit(packed, tmp_path / "b.pt", **everything)
    other, _ = fit(packed, tmp_path / "c.pt", seed=2, **everything)
    assert digest(again) == digest(model) and same == history
    assert digest(other) != digest(model)

    class Interruption(Exception):
        pass

    def after_two(history: list[Row]) -> None:
        if len(history) == 2:
            raise Interruption

    experiment = config(**everything)
    trained, validation = batches(packed, "train"), batches(packed, "val")
    saved = tmp_path / "interrupted.pt"
    with pytest.raises(Interruption):
        Trainer(fresh(packed, experiment), experiment, trained, validation, 1, saved).fit(after_two)
    torch.manual_seed(99)  # another process has drawn other numbers by then
    epochs = []
    resumed = fresh(packed, experiment, seed=77)
    total = Trainer(resumed, experiment, trained, validation, 1, saved).fit(lambda rows: epochs.append(len(rows)))
    assert epochs == [3, 4]  # it did go on from there
    assert total == history
    assert digest(resumed) == digest(model)


@pytest.mark.parametrize("change", [{"network": {**DROPOUT, "dropout": 0.0}}, {"augment": {}}])
def test_dropout_and_augmentation_take_part(packed: PackedDataset, tmp_path: Path, change: dict[str, Any]) -> None:
    everything = {"network": DROPOUT, "augment": CHANGES}
    with_it, _ = fit(packed, tmp_path / "a.pt", **everything)
    without, _ = fit(packed, tmp_path / "b.pt", **{**everything, **change})
    assert digest(with_it) != digest(without)


def test_augmentation_comes_before_normalization_and_leaves_validation_alone(
    packed: PackedDataset, tmp_path: Path
) -> None:
    model = Watched(90)
    images: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0].clone()) or None)
    experiment = config(augment={"rotation": 180}, epochs=1, batch_size="full", shuffle=False)
    validation = batches(packed, "val")
    Trainer(model, experiment, batches(packed, "train"), validation, 1, tmp_path / "saved.pt").fit()
    mean, std = (torch.tensor(values) for values in packed.normalization("dataset"))
    black = (-mean / std).view(1, 3, 1, 1)
    assert ((images[0] - black).abs() < 1e-3).all(1).any((1, 2)).sum() > 5
    assert images[1].equal(everything(validation)[0])


def test_checkpoint_leaves_out_frozen_weights_and_keeps_statistics(packed: PackedDataset, tmp_path: Path) -> None:
    class Frozen(nn.Sequential):
        def __init__(self) -> None:
            norm = nn.BatchNorm1d(90)
            super().__init__(nn.Flatten(), nn.Linear(90, 90).requires_grad_(False), norm, nn.Linear(90, 3))

    saved = tmp_path / "saved.pt"
    Trainer(Frozen(), config(epochs=1), batches(packed, "train"), None, 1, saved).fit()
    state = torch.load(saved, weights_only=True)
    assert set(state["model"]) == {name for name in Frozen().state_dict() if not name.startswith("1.")}
    with pytest.raises(UserError, match="of another training") as raised:
        Trainer(
            nn.Sequential(nn.Flatten(), nn.Linear(90, 3)), config(epochs=2), batches(packed, "train"), None, 1, saved
        ).fit()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("after", [0, 500, 1500])
def test_ctrl_c_while_a_checkpoint_is_written_stays_ctrl_c(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() >= after:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: File(path, mode))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "saved.pt", {"weights": torch.zeros(1000)})
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_damaged_is_set_aside(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything: dict[str, Any] = {"network": DROPOUT, "epochs": 3}
    whole = files(stage(things, monkeypatch, "things-cnn", **everything))
    interrupted_after_two(things, monkeypatch, "things-cnn", **everything)
    capsys.readouterr()
    (saved,) = (things.root / ".checkpoints/things-cnn").glob("*.pt")
    good = saved.read_bytes()
    for damaged in (b"", good[:500], *(bit_flipped(good, len(good) * part // 10) for part in range(1, 10, 2))):
        saved.parent.mkdir(exist_ok=True)
        saved.write_bytes(damaged)
        assert files(stage(things, monkeypatch, "things-cnn", **everything)) == whole
        out = capsys.readouterr().out
        assert out.count(f"{saved.name} is damaged: set aside") == 1 and "resuming" not in out

    saved.parent.mkdir()
    trap = things.root / "trap"
    torch.save({"model": Runs(trap)}, saved)
    saved.write_bytes(saved.read_bytes() + hashlib.sha256(saved.read_bytes()).digest())
    with pytest.raises(UserError, match=r"is of another training \(Weights only load failed"):
        stage(things, monkeypatch, "things-cnn", **everything)
    assert not trap.exists()

    saved.write_bytes(good)
    assert files(stage(things, monkeypatch, "things-cnn", **everything)) == whole
    assert "resuming after epoch 2 of 3" in capsys.readouterr().out


# --- Losses that are no numbers --------------------------------------------------------------------------------------


def test_loss_that_is_no_number_stops_and_keeps_the_last_good_state(packed: PackedDataset, tmp_path: Path) -> None:
    saved = tmp_path / "saved.pt"
    experiment = config(epochs=5, batch_size="full", optimizer={"name": "sgd", "lr": 0.01})
    model = fresh(packed, experiment)
    good = []

    def ruin(history: list[Row]) -> None:
        good.append(digest(model))
        if len(history) == 2:
            model[1].weight.data[0, 0] = torch.nan

    with pytest.raises(UserError) as raised:
        Trainer(model, experiment, batches(packed, "train"), None, 1, saved).fit(ruin)
    message = str(raised.value)
    assert "the loss became nan in epoch 3" in message and "of epoch 2" in message and str(saved) in message
    assert "\n" not in message
    restored = fresh(packed, experiment, seed=5)
    restored.load_state_dict(torch.load(saved, weights_only=True)["model"])
    assert digest(restored) == good[1]


def test_the_step_whose_loss_is_no_number_is_named(packed: PackedDataset, tmp_path: Path) -> None:
    trained = batches(packed, "train")
    with pytest.raises(UserError, match="in epoch 1, step 3 of 4: try a lower"):
        Trainer(Poisoned(trained, 16), config(shuffle=False), trained, None, 1, tmp_path / "saved.pt").fit()


class Poisoned(nn.Module):
    """Gives no number for the batch that holds a certain image."""

    def __init__(self, data: Batches, row: int) -> None:
        super().__init__()
        self.linear = nn.Linear(90, 3)
        self.image = everything(data)[0][row]

    def forward(self, images: Tensor) -> Tensor:
        is_it = (images == self.image).flatten(1).all(1).any()
        return self.linear(images.flatten(1)) / torch.where(is_it, 0.0, 1.0)


def test_weights_that_the_last_step_ruined_are_no_good_state(packed: PackedDataset, tmp_path: Path) -> None:
    """The loss of the first epoch is that of the weights before its one step."""
    huge = {"name": "sgd", "lr": 1e38, "weight_decay": 1e3}
    with pytest.raises(UserError, match=r"in epoch 1: try a lower optimizer\.lr"):
        fit(packed, tmp_path / "saved.pt", optimizer=huge, batch_size="full")
    assert not (tmp_path / "saved.pt").exists()


def test_loss_on_validation_images_counts(packed: PackedDataset, tmp_path: Path) -> None:
    broken = batches(packed, "val")
    broken.normalize.shift.fill_(torch.nan)
    experiment = config()
    with pytest.raises(UserError, match="loss on validation images became nan in epoch 1"):
        Trainer(fresh(packed, experiment), experiment, batches(packed, "train"), broken, 1, tmp_path / "saved.pt").fit()
    assert not (tmp_path / "saved.pt").exists()


# --- Batches and normalization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("chosen", "mean", "std"),
    [
        ("none", [0] * 3, [1] * 3),
        ("symmetric", [0.5] * 3, [0.5] * 3),
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (Normalization(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
        (Normalization(mean=[0.2], std=[0.7]), [0.2] * 3, [0.7] * 3),
        ("dataset", None, None),
    ],
)
def test_normalization(tmp_path: Path, channels: int, chosen: Any, mean: Any, std: Any) -> None:
    packed = opened(pack(tmp_path / "packed/things", channels=channels))
    images, labels = everything(batches(packed, "train", normalize=chosen))
    values = torch.tensor(packed.images[:31]).permute(0, 3, 1, 2).double() / 255
    if chosen == "dataset":
        assert images.mean((0, 2, 3)).abs().max() < 1e-3
        assert (images.std((0, 2, 3)) - 1).abs().max() < 1e-2
        mean, std = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3), correction=0).tolist()
    elif channels == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    expected = (values - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    assert images.dtype == torch.float32 and images.shape == (31, channels, 6, 5)
    assert torch.allclose(images.double(), expected, atol=1e-5)
    assert labels.tolist() == [CLASSES.index(label) for label in packed.table.label[:31]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mean", "std"), [([], []), ([0.5] * 2, [0.5] * 2), ([0.5] * 3, [0.5])])
def test_normalization_of_another_number_of_channels(
    tmp_path: Path, channels: int, mean: list[float], std: list[float]
) -> None:
    packed = opened(pack(tmp_path / "packed/things", channels=channels))
    with pytest.raises(UserError, match=f"{len(mean)} means and {len(std)} stds for {channels} channels"):
        packed.normalization(Normalization(mean=mean, std=std))


def test_images_stay_where_memory_for_twice_as_much_is_left(
    packed: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 31 * 90  # bytes of the images that train
    for left, resident in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(memory, "available", lambda left=left: left)
        data = TrainingData(packed, config(compute={"device": "cpu"}), CPU, ALONE)
        assert (data.train.pixels.resident is not None) == resident


def test_images_reach_another_device_in_parts(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each through memory that can't be swapped, of which there may be little. (`meta` has no values.)"""
    monkeypatch.setattr("pipeline.dataset.rows.PART", 10 * 90)
    read: list[int] = []
    original = Rows.read
    monkeypatch.setattr(Rows, "read", lambda self, rows: read.extend(rows) or original(self, rows))
    rows = packed.rows("train")
    resident = Rows(packed.file, rows, torch.device("meta"), 10**9).resident
    assert resident is not None and resident.shape == (31, 6, 5, 3) and resident.device.type == "meta"
    assert read == list(rows)


def test_images_that_never_change_are_normalized_once(packed: PackedDataset, tmp_path: Path) -> None:
    """Where all of them, unchanged, are the batch of every step."""
    experiment = config(batch_size="full", optimizer={"name": "sgd", "lr": 0.1})
    data = TrainingData(packed, experiment, CPU, ALONE)
    model, train_data, val_data = data.for_model(fresh(packed, experiment), 1, tmp_path / "features")
    history = Trainer(model, experiment, train_data, val_data, 1, tmp_path / "a.pt").fit()
    assert train_data.normalized is not None
    expected, usual = fit(packed, tmp_path / "b.pt", batch_size="full", optimizer={"name": "sgd", "lr": 0.1})
    assert history == usual and digest(model) == digest(expected)


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_memory_that_a_container_or_a_job_may_take(tmp_path: Path) -> None:
    """Docker, SLURM and systemd limit it by control groups, of either version."""
    used = {"memory__current": "700\n", "memory__stat": "anon 500\ninactive_file 200\n"}
    write_group(tmp_path, memory__stat="inactive_file 5\n")  # the root has no limit
    write_group(tmp_path / "slurm", memory__max="1000\n", **used)
    write_group(tmp_path / "slurm/job", memory__max="max\n", **used)
    assert memory.left_to_groups("0::/slurm/job\n", tmp_path) == [500]
    assert memory.left_to_groups("0::/elsewhere\n", tmp_path) == []  # the host's name of it, seen from inside

    old = {"memory__usage_in_bytes": "800\n", "memory__stat": "total_inactive_file 100\n"}
    write_group(tmp_path / "memory/docker/a", memory__limit_in_bytes="600\n", **old)
    write_group(tmp_path / "memory", memory__limit_in_bytes="9000\n", **old)
    listed = "9:name=systemd:/\n4:cpu,memory:/docker/a\n2:cpuset:/docker/a\n0::/\n"
    assert memory.left_to_groups(listed, tmp_path) == [0, 8300]
    assert 0 < memory.available() < 2**50


def test_streamed_and_resident_images_train_alike(
    packed: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {"network": DROPOUT, "augment": CHANGES, "optimizer": ADAM}
    resident = batches(packed, "train")
    expected, history = fit(packed, tmp_path / "a.pt", **described)
    monkeypatch.setattr("things.BUDGET", 0)
    streamed = batches(packed, "train")
    assert resident.pixels.resident is not None
    assert streamed.pixels.resident is None
    chosen = [torch.arange(8), torch.arange(24, 31), torch.tensor([30, 2, 2, 17]), torch.tensor([], dtype=torch.long)]
    for ours, theirs in zip(resident.batches(chosen), streamed.batches(chosen), strict=True):
        assert ours.equal(theirs)
    model, same = fit(packed, tmp_path / "b.pt", **described)
    assert same == history
    assert digest(model) == digest(expected)


def test_images_are_made_in_chunks_as_all_at_once(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    images, experiment = batches(packed, "train"), config(augment=CHANGES).augment
    (pixels,) = images.batches([torch.arange(11)])
    draws = images.draw(experiment, seed=1, epoch=1)[:11]
    expected = images.images(pixels, experiment, draws)
    monkeypatch.setattr("pipeline.dataset.batches.CHUNK", 3 * 6 * 5 * 3)
    with torch.inference_mode():
        made = images.images(pixels, experiment, draws)
    assert torch.allclose(made, expected, atol=1e-5) and not made.is_inference()
    assert images.images(pixels[:7]).data_ptr() == made.data_ptr()  # each batch in the place of the one before
    assert images.images(pixels).equal(
        (pixels.permute(0, 3, 1, 2).float() * images.normalize.scale) - images.normalize.shift
    )


def test_mixing_in_chunks_as_all_at_once(
    packed: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {"augment": {"mixup": 0.5}, "epochs": 1}
    _, (expected,) = fit(packed, tmp_path / "a.pt", **described)
    monkeypatch.setattr("pipeline.dataset.batches.CHUNK", 3 * 6 * 5 * 3)
    _, (row,) = fit(packed, tmp_path / "b.pt", **described)
    assert row == pytest.approx(expected, rel=1e-5)


def test_packed_file_that_is_cut_short(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("things.BUDGET", 0)
    streamed = batches(packed, "train")
    with packed.file.open("r+b") as file:
        file.truncate(packed.file.stat().st_size // 2)
    with pytest.raises(UserError, match=r"images\.npy ends too early: run dvc repro pack@things"):
        everything(streamed)


def test_rows_of_a_split_come_in_file_order_and_leave_out_the_rest(packed: PackedDataset) -> None:
    assert packed.rows("train", "val").tolist() == list(range(38))
    assert packed.rows("val").tolist() == list(range(31, 38))
    assert packed.rows().tolist() == []


def test_images_are_found_by_their_path(tmp_path: Path) -> None:
    """Whatever is packed beside them, and wherever: the table of splits says which, and in which order."""
    folder = pack(tmp_path / "packed/things")
    whole = opened(folder)
    rows = [30, 4, 17, 40, 33, 2]
    pq.write_table(pq.read_table(splits_of(folder)).take(rows), splits_of(folder))
    packed = opened(folder)
    assert packed.rows("train").tolist() == [30, 4, 17, 2]
    assert packed.rows("test", "val").tolist() == [40, 33]
    assert packed.labels[rows].tolist() == whole.labels[rows].tolist()
    assert (packed.labels == -1).sum() == 41 - len(rows)
    values = packed.images[[30, 4, 17, 2]] / 255
    mean, std = packed.normalization("dataset")
    assert mean == [round(value, 6) for value in values.mean((0, 1, 2))]
    assert std == [round(value, 6) for value in values.std((0, 1, 2))]
    assert mean != whole.normalization("dataset")[0]


def test_fractions_of_a_split_are_nested_and_have_every_class(packed: PackedDataset) -> None:
    rows = [set(packed.rows("train", "val", fraction=fraction)) for fraction in (0.01, 0.25, 0.5, 1)]
    assert rows[0] < rows[1] < rows[2] < rows[3] == set(range(38))
    for some, fraction in zip(rows, (0.01, 0.25, 0.5, 1), strict=True):
        chosen, whole = (packed.table.iloc[sorted(of)].groupby(["split", "label"]).size() for of in (some, rows[3]))
        assert chosen.to_dict() == {key: np.ceil(fraction * size) for key, size in whole.items()}


def test_training_does_not_change_the_images(packed: PackedDataset, tmp_path: Path) -> None:
    trained = batches(packed, "train")
    Trainer(fresh(packed, config()), config(augment=CHANGES), trained, None, 1, tmp_path / "saved.pt").fit()
    assert trained.pixels.resident is not None
    assert trained.pixels.resident.equal(torch.tensor(packed.images[:31]))


def test_large_images_are_evaluated_in_small_batches(packed: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh(packed, config())
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    at_once = inference.answers(model, batches(packed, "train", "val"))
    assert sizes == [38]
    monkeypatch.setattr(inference, "EVALUATION_VALUES", 15 * 6 * 5 * 3)
    in_parts = inference.answers(model, batches(packed, "train", "val"))
    assert torch.allclose(in_parts.log_truth, at_once.log_truth, atol=1e-6)
    assert in_parts.predicted.equal(at_once.predicted)
    assert sizes[1:] == [15, 15, 8]
    monkeypatch.setattr(inference, "EVALUATION_VALUES", 1)
    inference.answers(model, batches(packed, "val"))
    assert sizes[4:] == [1] * 7


# --- Where it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta", "xla", "cpu:x"])
def test_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"compute\.device = ") as raised:
        select_device(Compute(device=name))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_threads_are_as_many_as_the_config_says() -> None:
    device, threads = select_device(Compute(device="cpu", threads=3))
    assert (device, threads) == (CPU, 3)
    make_deterministic(device, threads)
    assert torch.get_num_threads() == 3
    assert select_device(Compute())[1] == 3


@pytest.mark.parametrize(
    ("batch_size", "network", "small"),
    [
        (64, {"name": "mlp", "hidden": [40]}, True),
        (10**6, {"name": "mlp", "hidden": [40]}, False),
        ("full", {"name": "mlp", "hidden": [40]}, False),  # however few images these are
        (64, {"name": "cnn", "convolutions": [2], "hidden": [4]}, False),
    ],
)
def test_a_perceptron_with_small_steps_takes_one_thread(
    packed: PackedDataset, batch_size: int | str, network: dict[str, Any], small: bool
) -> None:
    assert has_small_steps(config(batch_size=batch_size, network=network), packed) == small
    torch.set_num_threads(3)
    for compute, threads in ((Compute(device="cpu"), 1 if small else 3), (Compute(device="cpu", threads=2), 2)):
        assert select_device(compute, small_steps=small)[1] == threads


def test_optimizer_leaves_frozen_weights_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    (optimizer,) = make_optimizers(model, OptimizerConfig(name="adam", lr=0.1, weight_decay=0.5))
    assert [id(each) for each in optimizer.param_groups[0]["params"]] == [id(each) for each in model[1].parameters()]


# --- The stage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def things(project: Project) -> Project:
    pack(project.root / "data/packed/things")
    project.dataset("things", "data/raw/things", [6, 5])
    return project


def stage(project: Project, monkeypatch: pytest.MonkeyPatch, name: str, **more: Any) -> Path:
    """Run `train` for an experiment in this process. Returns the model's folder."""
    project.params["experiments"] = {}
    project.experiment(name, "things", **more)
    project.command("train")
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", ["train", name])
    train.main()
    return project.root / "models" / name


def interrupted_after_two(project: Project, monkeypatch: pytest.MonkeyPatch, name: str, **more: Any) -> None:
    """As `stage`, interrupted from the keyboard at the end of the second epoch."""

    def log(logger: live.Logger, history: list[Row]) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(live.Logger, "log", log)
        with pytest.raises(KeyboardInterrupt):
            stage(project, patched, name, **more)


def failure(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, **more: Any
) -> Ran:
    """As `stage`, for one that ends with an error; any other exception than those meant for people comes through."""
    monkeypatch.setattr(train, "main", lambda main=train.main: run(main))
    with pytest.raises(SystemExit) as raised:
        stage(project, monkeypatch, name, **more)
    monkeypatch.undo()
    return Ran(int(str(raised.value.code)), *capsys.readouterr())


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_stage_writes_the_same_bytes_twice(things: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for _ in range(2):
        stage(things, monkeypatch, "things-cnn", network=DROPOUT, augment=CHANGES)
        written.append({folder: files(things.root / folder) for folder in ("models", "reports", ".checkpoints")})
    assert written[0] == written[1]
    assert set(written[0]["models"]) == {"things-cnn/model.json", "things-cnn/model.safetensors"}
    assert written[0][".checkpoints"] == {}

    about = json.loads(written[0]["models"]["things-cnn/model.json"])
    assert about["classes"] == CLASSES
    assert about["shape"] == {"channels": 3, "height": 6, "width": 5, "classes": 3}
    mean, std = opened(things.root / "data/packed/things").normalization("dataset")
    assert about["preprocessing"] == {"crop": "no", "mean": mean, "std": std, "tta": False}
    history = pd.read_csv(things.root / "reports/things-cnn/history.csv")
    assert list(history) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert list(history.epoch) == [1, 2]

    stage(things, monkeypatch, "things-cnn", network=DROPOUT, augment=CHANGES, seed=2)
    assert files(things.root / "models")["things-cnn/model.safetensors"] != written[0]["models"][
        "things-cnn/model.safetensors"
    ]  # fmt: skip


def test_stage_keeps_how_long_it_trained_where_no_output_is(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = time.time()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "of a queued experiment"))
    stage(things, monkeypatch, "things-mlp")
    known = times.read(json.loads((things.root / "reports/things-mlp/provenance.json").read_text())["fingerprint"])
    assert known is not None and before <= known.start <= known.start + known.train_seconds <= time.time()
    assert (known.device, known.threads, known.devices) == ("cpu", 1, 1)
    assert capsys.readouterr().out.endswith(f"things-mlp: trained in {known.train_seconds:.1f} s\n")
    assert [file.suffix for file in (tmp_path / "of a queued experiment/.train_times").iterdir()] == [".json"]
    assert times.read("of nothing that was trained here") is None


def test_stage_adds_the_seconds_before_an_interruption(things: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    clock = 1000.0
    monkeypatch.setattr(time, "time", lambda: clock)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    run_epoch = Trainer.run_epoch

    def slow(trainer: Trainer, epoch: int) -> Row:
        nonlocal clock
        clock += 10
        return run_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", slow)
    interrupted_after_two(things, monkeypatch, "things-mlp", epochs=3, seeds=2)  # 20 s, from 1000
    clock = 5000.0
    stage(things, monkeypatch, "things-mlp", epochs=3, seeds=2)  # an epoch of the first seed, all of the second
    (file,) = (things.root / ".train_times").iterdir()
    known = times.read(file.stem)
    assert known is not None and (known.start, known.train_seconds) == (1000, 60)
    assert known.epochs == [10, 20, 30]  # of the first seed


def test_outputs_do_not_depend_on_code_that_is_no_dependency(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An edit of another network leaves the stage up to date. (A checkpoint of other code is not used all the same.)"""
    expected = files(stage(things, monkeypatch, "things-mlp", epochs=3))
    monkeypatch.setattr(setup, "version", lambda *rooms: "before the edit")
    interrupted_after_two(things, monkeypatch, "things-mlp", epochs=3)
    monkeypatch.setattr(setup, "version", lambda *rooms: "after the edit")
    assert files(stage(things, monkeypatch, "things-mlp", epochs=3)) == expected
    assert "resuming" not in capsys.readouterr().out


def test_stage_shows_the_network_and_a_line_for_every_epoch(things: Project) -> None:
    """Each as soon as it is known, also through a pipe; seconds are in no output."""
    network = {**MLP, "batch_norm": True}
    things.experiment("things-mlp", "things", network=network, epochs=10**6, compute={"threads": 1})
    command = things.command("train", "things-mlp")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, cwd=things.root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(7)]
        process.kill()
    table = [line.split() for line in lines[:4]]
    assert table == [
        ["layer", "type", "parameters"],
        ["1", "Linear", "1,092"],
        ["2", "BatchNorm1d", "24"],
        ["4", "Linear", "39"],
    ]
    assert lines[4].startswith("things-mlp: 1,155 of 1,155 parameters")
    figure = r"\d+\.\d{4}"
    for epoch, line in enumerate(lines[5:], start=1):
        losses = f"train loss {figure}, train accuracy {figure}, val loss {figure}, val accuracy {figure}"
        assert re.fullmatch(rf"epoch {epoch}/1000000: {losses}, \d+\.\d s", line)


@pytest.mark.parametrize(("freeze", "state"), [(True, " frozen"), (False, "")])
def test_table_of_a_large_network_has_a_row_for_each_block(freeze: bool, state: str) -> None:
    network = {"name": "torchvision", "model": "resnet50", "freeze": freeze}
    model = build(config(network=network).network, Shape(3, 32, 32, 2))
    lines = [" ".join(line.split()) for line in summary(model)]
    assert len(lines) <= 41 and lines[0] == "layer type parameters"
    assert f"backbone.layer1.0 Bottleneck 75,008{state}" in lines
    assert lines[-1] == "head.0 Linear 4,098"
    counts = [int(line.split()[2].replace(",", "")) for line in lines[1:]]
    assert sum(counts) == sum(weight.numel() for weight in model.parameters())


def test_stage_trains_on_validation_images_too_where_nothing_is_picked(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(things, monkeypatch, "things-all", train_on_val=True)
    assert "38 images" in capsys.readouterr().out
    history = pd.read_csv(things.root / "reports/things-all/history.csv")
    assert list(history) == ["epoch", "train_loss", "train_accuracy"]


def test_stage_trains_on_a_fraction_of_the_training_images(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(things, monkeypatch, "things-half", train_fraction=0.5)
    rows = opened(things.root / "data/packed/things").rows("train", fraction=0.5)
    assert f"{len(rows)} images" in capsys.readouterr().out and len(rows) < 20
    assert "val_loss" in pd.read_csv(things.root / "reports/things-half/history.csv")


def test_stage_leaves_checkpoints_of_others_alone(things: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run of `mlp-wide` must outlive a run of `mlp`."""
    seen: list[list[str]] = []
    original = Trainer.fit

    def watched(*arguments: Any) -> Any:
        history = original(*arguments)
        seen.append(sorted(path for path in files(things.root / ".checkpoints") if not path.endswith(".lock")))
        return history

    monkeypatch.setattr(Trainer, "fit", watched)
    monkeypatch.setattr(outputs, "write_history", lambda *arguments: sys.exit("interrupted"))
    with pytest.raises(SystemExit):
        stage(things, monkeypatch, "mlp-wide")
    monkeypatch.undo()
    monkeypatch.setattr(live, "SHORT", 1e9)
    kept = files(things.root / ".checkpoints")
    assert len(kept) == 1 and seen == [list(kept)]
    stage(things, monkeypatch, "mlp")
    assert files(things.root / ".checkpoints") == kept


def test_stage_takes_one_thread_for_small_steps(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for batch_size, threads in ((8, "1 thread"), ("full", "3 threads")):
        torch.set_num_threads(3)
        stage(things, monkeypatch, "things-mlp", batch_size=batch_size, epochs=1)
        assert f"on cpu ({threads})" in capsys.readouterr().out


def test_stage_stops_for_a_loss_that_is_no_number(things: Project) -> None:
    # every epoch multiplies the weights by -999: the loss overflows after a few good ones
    runaway = {"name": "sgd", "lr": 1.0, "weight_decay": 1000.0}
    things.experiment("things-nan", "things", optimizer=runaway, epochs=50, batch_size="full", compute={"threads": 1})
    ran = things.run("train", "things-nan")
    failed_in_one_line(ran, "in epoch", "the last good state", ".checkpoints/things-nan", "lower optimizer.lr")
    assert "(1 thread)" in ran.out
    assert not (things.root / "models").exists()
    assert not (things.root / "reports").exists()
    kept = files(things.root / ".checkpoints")
    assert len(kept) == 1
    assert next(iter(kept)) in ran.err


def test_stage_without_its_input(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.dataset("things", "data/raw/things", 64)
    with pytest.raises(UserError, match=r"data/packed/things is not there: run dvc repro pack@things"):
        stage(project, monkeypatch, "things-mlp")
    pack(project.root / "data/packed/things", height=64, width=64)
    squeezenet = {"name": "torchvision", "model": "squeezenet1_1", "weights": "IMAGENET1K_V1"}
    with pytest.raises(UserError, match=r"data/weights/things-net holds no weights: run dvc repro weights@things-net"):
        stage(project, monkeypatch, "things-net", network=squeezenet)


def test_stage_without_a_place_to_write(
    things: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (things.root / "models").write_text("in the way")
    failed_in_one_line(failure(things, monkeypatch, capsys, "things-mlp"), "models")
    assert (things.root / "models").read_text() == "in the way"
    assert not (things.root / "reports").exists()
    (things.root / "models").unlink()
    stage(things, monkeypatch, "things-mlp")
    assert "resuming after epoch 2 of 2" in capsys.readouterr().out  # nothing is computed again


@pytest.fixture
def small_disk(things: Project) -> Iterator[Callable[[str, int], Path]]:
    """Make a folder of the project a disk of so many bytes."""
    mounted: list[Path] = []

    def mount(name: str, size: int) -> Path:
        folder = things.root / name
        folder.mkdir()
        run_or_skip("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", [".checkpoints", "models"])
def test_stage_on_a_full_disk(
    things: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_disk: Callable[[str, int], Path],
    name: str,
) -> None:
    disk = small_disk(name, 65536)
    large = {"name": "mlp", "hidden": [1000]}  # 376 kB
    failed_in_one_line(failure(things, monkeypatch, capsys, "things-mlp", network=large), "No space left on device")
    assert files(disk) == {}
    assert files(things.root / "models") == {}
    assert not (things.root / "reports").exists()


# Trains in a process that may take so many more MB of address space than it has once all is imported
LIMITED = """
import resource, sys
from pathlib import Path
from pipeline import train
from pipeline.dataset import packed
from pipeline.training import data, distributed, model, outputs, setup, trainer

size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv.pop()) * 2**20,) * 2)
train.run(train.main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.parametrize(
    ("more", "words"),
    [(125, "for this network: make it smaller"), (600, "for a batch of 8 with grad_accum_steps = 1: set")],
)
def test_too_little_memory_is_one_line(things: Project, more: int, words: str) -> None:
    wide = {"network": {"name": "mlp", "hidden": [500_000]}}  # 188 MB, and as much again for gradients
    things.experiment("things-wide", "things", compute={"device": "cpu", "threads": 1}, **wide)
    things.command("train")
    command = [sys.executable, "-c", LIMITED, "things-wide", str(more)]
    failed_in_one_line(run_command(command, things.root, PYTHONPATH=str(REPOSITORY)), "not enough memory", words)


# --- Transfer learning on real photos --------------------------------------------------------------------------------


def test_pretrained_features_tell_cats_from_dogs(
    project: Project, data_mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One linear layer on every fourth photo; on features that are not pretrained it gets about 60 % right."""
    name = "squeezenet1_1-imagenet-features.pth"
    weights = {"file": name, "sha256": hashlib.sha256((data_mirror / "weights" / name).read_bytes()).hexdigest()}
    network = {"name": "torchvision", "model": "squeezenet1_1", "weights": weights, "freeze": True}
    sample = data_mirror / "cats-dogs/cats-dogs-sample.zip"
    with zipfile.ZipFile(sample) as photos, zipfile.ZipFile(project.root / "photos.zip", "w") as some:
        for photo in photos.namelist()[::4]:
            some.writestr(photo, photos.read(photo))
    project.dataset("photos", "photos.zip", 128, split={"val": 0.1, "test": 0.25})
    config = {"network": network, "optimizer": {"name": "adam", "lr": 0.003}, "epochs": 8, "views": 1}
    project.experiment("photos-squeezenet", "photos", normalize="imagenet", batch_size=32, **config)
    project.command("check")
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("DATA_MIRROR", str(data_mirror))
    steps = ["check photos", "split photos", "pack photos", "download --weights {}", "train {}", "evaluate {}"]
    for step in steps:
        monkeypatch.setattr(sys, "argv", step.format("photos-squeezenet").split())
        stage, name_ = sys.argv[0], sys.argv[-1]
        main = import_module(f"pipeline.{stage}").main
        main() if stage in ("download", "train") else main(name_)
    out = capsys.readouterr().out
    sizes = pd.read_parquet(project.root / "data/splits/photos.parquet").split.value_counts()
    assert f"1,026 of 723,522 parameters, {sizes.train:,} images" in out
    metrics = json.loads((project.root / "reports/photos-squeezenet/metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.88
    assert (metrics["parameters"], metrics["trainable_parameters"]) == (723_522, 1_026)
    predictions = pd.read_parquet(project.root / "reports/photos-squeezenet/predictions.parquet")
    assert len(predictions) == predictions.path.nunique() == sizes.val + sizes.test
