"""A tiny packed data set and short trainings on it, for the tests of training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.experiments import Experiment
from pipeline.dataset.batches import Batches
from pipeline.dataset.packed import PackedDataset
from pipeline.images.tables import CHECKED, SPLIT, write_tables
from pipeline.networks import Shape, build
from pipeline.training import live
from pipeline.training.trainer import Row, Trainer

CPU = torch.device("cpu")
BUDGET = 1_000_000  # bytes
CLASSES = ["ant", "bee", "cat"]
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
ADAM = {"name": "adam", "lr": 0.01}
MLP = {"name": "mlp", "hidden": [12]}
DROPOUT = {"name": "cnn", "convolutions": [4], "padding": 1, "batch_norm": True, "hidden": [8], "dropout": 0.4}
CHANGES = {"rotation": 15.0, "horizontal_flip": 0.5}


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(live, "SHORT", 1e9)
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)  # so little work is slower on more, above all beside other tests
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


def pack(folder: Path, count: int = 41, height: int = 6, width: int = 5, channels: int = 3, val: int = 7) -> Path:
    """A packed data set of random images, with classes that can be told apart by their brightness.

    `folder` is `…/packed/<name>`; the table of splits goes to `…/splits/<name>.parquet`.
    """
    draw = np.random.default_rng(7)
    labels = draw.integers(0, len(CLASSES), count)
    images = draw.integers(0, 120, (count, height, width, channels)) + 60 * labels[:, None, None, None]
    splits = ["train"] * (count - val - 3) + ["val"] * val + ["test"] * 3
    paths = [f"{number:03d}.png" for number in range(count)]
    names = [CLASSES[label] for label in labels]
    table = pd.DataFrame({"path": paths, "label": names, "split": splits})
    of_side = table.groupby(["label", "split"]).path
    table["train_order"] = of_side.cumcount(ascending=False) / of_side.transform("size")
    write_packed(folder, images.astype(np.uint8), table, CLASSES)
    return folder


def write_packed(folder: Path, images: np.ndarray, table: pd.DataFrame, classes: list[str]) -> None:
    """Write images (N, H, W, C) uint8 and their table as `check`, `pack` and `split` do."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    index, values = {"path": list(table.path)}, images.astype(np.int64)
    for channel in range(images.shape[3]):
        index[f"sum_{channel}"] = values[..., channel].sum((1, 2))
        index[f"sum_of_squares_{channel}"] = (values[..., channel] ** 2).sum((1, 2))
    pd.DataFrame(index).to_parquet(folder / "index.parquet")
    meta = dict(zip(("images", "height", "width", "channels"), images.shape, strict=True))
    sha256 = hashlib.sha256(images.tobytes()).hexdigest()
    (folder / "meta.json").write_text(json.dumps({**meta, "sha256": sha256, "preprocessing": {"crop": "no"}}))
    schema = pa.schema([SPLIT.field(column) for column in table.columns])
    write_tables(splits_of(folder), [pa.Table.from_pandas(table, schema, preserve_index=False)], classes, schema)
    size = {"height": images.shape[1], "width": images.shape[2]}
    rows = [
        {"path": path, "pixel_hash": path, "brightness": float(image.mean() / 255), **size}
        for path, image in zip(table.path, images, strict=True)
    ]
    write_tables(checked_of(folder), [pa.Table.from_pylist(rows, CHECKED)], classes)


def splits_of(folder: Path) -> Path:
    """The table of splits of the data set in `…/packed/<name>`."""
    return folder.parents[1] / "splits" / f"{folder.name}.parquet"


def checked_of(folder: Path) -> Path:
    """The table of all files of that data set."""
    return folder.parents[1] / "checked" / f"{folder.name}.parquet"


def opened(folder: Path) -> PackedDataset:
    return PackedDataset(folder, splits_of(folder))


@pytest.fixture
def packed(tmp_path: Path) -> PackedDataset:
    return opened(pack(tmp_path / "packed/things"))


def config(**more: Any) -> Experiment:
    plain = {"dataset": "things", "network": MLP, "optimizer": SGD, "epochs": 2, "batch_size": 8}
    return Experiment.model_validate({**plain, **more})


def batches(packed: PackedDataset, *splits: str, normalize: Any = "dataset") -> Batches:
    return Batches(packed, packed.rows(*splits), *packed.normalization(normalize), CPU, BUDGET)


def everything(data: Batches) -> tuple[Tensor, Tensor]:
    """All images, normalized, and their labels."""
    (pixels,) = data.batches([torch.arange(len(data))])
    return data.images(pixels), data.labels


def fresh(packed: PackedDataset, experiment: Experiment, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    meta = packed.meta
    return build(experiment.network, Shape(meta["channels"], meta["height"], meta["width"], len(packed.classes)))


class Runs:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def fit(packed: PackedDataset, saved: Path, seed: int = 1, **more: Any) -> tuple[nn.Module, list[Row]]:
    """Train in this process, on the images that train, and validate."""
    experiment = config(**more)
    model = fresh(packed, experiment, seed)
    trained, validation = batches(packed, "train"), batches(packed, "val")
    return model, Trainer(model, experiment, trained, validation, seed, saved).fit()


def digest(model: nn.Module) -> str:
    """Of all weights and statistics, to the bit."""
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
