"""On a GPU: a graph or launch by launch, resident or streamed, the losses are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from things import ADAM, SGD, config, digest, opened, pack
from torch import nn

from pipeline.dataset.packed import PackedDataset
from pipeline.system.device import make_deterministic, select_device
from pipeline.training.cuda_graph import WARM_UP
from pipeline.training.data import TrainingData
from pipeline.training.distributed import ALONE
from pipeline.training.model import make_model
from pipeline.training.trainer import Row, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

CNN = {"name": "cnn", "convolutions": [4], "padding": 1, "batch_norm": True, "hidden": [8]}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return opened(pack(tmp_path_factory.mktemp("cuda") / "packed/things", count=10 * WARM_UP * 8))


def fit(
    packed: PackedDataset, folder: Path, cache_mb: int = 100, cuda_graphs: bool = True, on_epoch: Any = len, **more: Any
) -> Any:
    compute = {"device": "cuda", "cache_mb": cache_mb, "cuda_graphs": cuda_graphs, **more.pop("compute", {})}
    experiment = config(compute=compute, **more)
    device, threads = select_device(experiment.compute)
    make_deterministic(device, threads, experiment.precision)
    data = TrainingData(packed, experiment, device, ALONE)
    model: nn.Module = make_model(data, 1)
    history = Trainer(model, experiment, data.train, data.val, 1, folder / f"{cache_mb}-{cuda_graphs}.pt").fit(on_epoch)
    return digest(model.cpu()), history


def losses(history: list[Row]) -> list[Any]:
    return [row[split] for row in history for split in ("train_loss", "val_loss")]


@pytest.mark.parametrize("network", [{"name": "mlp", "hidden": [12]}, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": SGD},
        {"optimizer": ADAM, "schedule": {"name": "one_cycle"}, "ema": 0.9},
        {"optimizer": SGD, "augment": {"rotation": 10.0, "horizontal_flip": 0.5, "mixup": 0.4}, "grad_clip": 1.0},
        {"optimizer": {**ADAM, "name": "adamw"}, "regularization": {"l1": 1e-3}, "label_smoothing": 0.1},
        {"optimizer": SGD, "precision": "bf16", "grad_accum_steps": 2},
    ],
    ids=["sgd", "one-cycle", "augmented", "l1", "bf16"],
)
def test_a_graph_trains_as_launches_one_by_one(
    packed: PackedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: dict[str, Any],
    more: dict[str, Any],
) -> None:
    replay, replays = torch.cuda.CUDAGraph.replay, []
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
    _, expected = fit(packed, tmp_path, cuda_graphs=False, epochs=3, network=network, **more)
    assert not replays
    _, history = fit(packed, tmp_path, epochs=3, network=network, **more)
    assert len(set(replays)) == 1 and len(replays) > 3 * WARM_UP
    assert losses(history) == pytest.approx(losses(expected), rel=1e-2 if "precision" in more else 1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {"network": {"name": "airbench", "widths": [8, 8]}, "optimizer": {"name": "muon", "lr": 0.01}},
        {"network": {"name": "mlp"}, "batch_size": "full"},
        {"network": CNN, "augment": {"randaugment": {"operations": 2, "magnitude": 9}, "cutmix": 0.5}},
        {"network": CNN, "compute": {"device": "cuda:0"}},
    ],
    ids=["airbench", "full", "randaugment", "cuda:0"],
)
def test_what_else_has_to_lie_on_the_device(packed: PackedDataset, tmp_path: Path, more: dict[str, Any]) -> None:
    _, history = fit(packed, tmp_path, epochs=2, **more)
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_a_killed_run_goes_on_at_the_lr_of_its_schedule(packed: PackedDataset, tmp_path: Path) -> None:
    """Its graph reads the rate from a tensor."""
    described = {"network": CNN, "optimizer": ADAM, "schedule": {"name": "one_cycle"}, "epochs": 4}
    _, expected = fit(packed, tmp_path / "a", **described)

    def stop(rows: list[Row]) -> None:
        if len(rows) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(packed, tmp_path / "b", **described, on_epoch=stop)
    _, history = fit(packed, tmp_path / "b", **described)
    assert losses(history) == pytest.approx(losses(expected), rel=1e-4)


def test_nothing_waits_for_the_device_inside_an_epoch(packed: PackedDataset, tmp_path: Path, monkeypatch: Any) -> None:
    original = Trainer.train_step

    def step(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "train_step", step)
    fit(packed, tmp_path, cuda_graphs=False, network=CNN, augment={"rotation": 10.0}, epochs=1)


def test_the_same_bytes_again(packed: PackedDataset, tmp_path: Path) -> None:
    described = {"network": {**CNN, "dropout": 0.3}, "augment": {"horizontal_flip": 0.5}, "epochs": 2}
    assert fit(packed, tmp_path / "a", **described) == fit(packed, tmp_path / "b", **described)


def test_streamed_images_train_as_resident_ones(packed: PackedDataset, tmp_path: Path) -> None:
    described = {"network": CNN, "augment": {"rotation": 10.0}, "epochs": 2}
    assert fit(packed, tmp_path, cache_mb=0, **described) == fit(packed, tmp_path, **described)
