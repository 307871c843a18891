"""The step that is written out gives what automatic differentiation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from things import ADAM, SGD, config, digest, fit
from things import one_thread as one_thread
from things import packed as packed

from pipeline.dataset.packed import PackedDataset
from pipeline.training import perceptron
from pipeline.training.perceptron import Perceptron
from pipeline.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP = {"name": "mlp", "hidden": [12, 9]}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every step that is written out."""
    steps: list[int] = []
    original = Perceptron.__call__
    monkeypatch.setattr(Perceptron, "__call__", lambda self, *given: steps.append(1) or original(self, *given))
    return steps


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": {"name": "sgd", "lr": 0.1}},
        {"optimizer": {"name": "sgd", "lr": 0.1, "layer_decay": 0.5}, "schedule": {"name": "cosine"}},
        {"optimizer": {**SGD, "weight_decay": 0.1, "nesterov": True}},
        {"optimizer": ADAM, "ema": 0.9, "checkpoint": "best"},
        {"optimizer": {**ADAM, "weight_decay": 0.1, "layer_decay": 0.5}, "schedule": {"name": "cosine"}},
        {"optimizer": {**ADAM, "name": "adamw", "weight_decay": 0.1, "decay_biases": False}},
        {"optimizer": ADAM, "network": {**DEEP, "log_softmax": True}},
        {"optimizer": ADAM, "network": {"name": "mlp"}},
        {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": "full"},
        {"optimizer": ADAM, "augment": {"horizontal_flip": 0.5}},
    ],
)
@pytest.mark.parametrize("way", ["at once", "in blocks", "by oneDNN"])
def test_weights_and_losses_are_those_of_autograd(
    packed: PackedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    used: list[int],
    more: dict[str, Any],
    way: str,
) -> None:
    described = {"network": DEEP, "epochs": 3, **more}
    if way == "in blocks":  # of three images
        monkeypatch.setattr(perceptron, "BLOCK_VALUES", 3 * 90)
    elif way == "by oneDNN":
        if perceptron.ONEDNN is None:
            pytest.skip("this torch has no oneDNN")
        original, products = perceptron.ONEDNN, []
        monkeypatch.setattr(perceptron, "ONEDNN", lambda *given: products.append(1) or original(*given))
        monkeypatch.setattr(perceptron, "ONEDNN_PRODUCTS", 1)
    written_out, history = fit(packed, tmp_path / "a.pt", **described)
    steps = len(used)
    assert way != "by oneDNN" or len(products) > steps
    assert steps == 3 * (1 if described.get("batch_size") == "full" else 4)
    monkeypatch.setattr(perceptron, "suits", lambda *_: False)
    expected, usual = fit(packed, tmp_path / "b.pt", **described)
    assert len(used) == steps
    for ours, theirs in zip(history, usual, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for ours, theirs in zip(written_out.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_images_that_are_normalised_once(packed: PackedDataset, tmp_path: Path) -> None:
    """As where all of them, unchanged, are the batch of every step."""
    described = {"network": DEEP, "batch_size": "full", "optimizer": {"name": "sgd", "lr": 0.1}}
    engine = Trainer(packed, config(**described, compute={"device": "cpu", "threads": 1}))
    model = engine.network(1)
    history = engine.fit(model, 1, tmp_path / "a.pt", tmp_path / "features")
    assert engine.data.normalized is not None
    expected, usual = fit(packed, tmp_path / "b.pt", **described)
    assert history == usual and digest(model) == digest(expected)


@pytest.mark.parametrize(
    "more",
    [
        {"network": {**DEEP, "dropout": 0.1}},
        {"network": {**DEEP, "batch_norm": True}},
        {"network": {**DEEP, "activation": "tanh"}},
        {"regularization": {"l1": 0.1}},
        {"regularization": {"l2": 0.1}},
        {"label_smoothing": 0.1},
        {"class_weights": "balanced"},
        {"grad_clip": 1.0},
        {"precision": "bf16"},
        {"grad_accum_steps": 2},
        {"unfreeze_every": 1},
        {"augment": {"mixup": 0.2}},
        {"optimizer": {"name": "muon", "lr": 0.01}},
    ],
)
def test_what_is_not_written_out_goes_by_autograd(
    packed: PackedDataset, tmp_path: Path, used: list[int], more: dict[str, Any]
) -> None:
    fit(packed, tmp_path / "saved.pt", **{"network": DEEP, "epochs": 1, **more})
    assert not used
