"""Packed data and models that were damaged: one line names the file and what to do, and nothing is made of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Project, Ran, failed_in_one_line, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_training import files
from things import one_thread as one_thread
from things import pack

from pipeline import evaluate, predict, train
from pipeline.dataset.packed import PackedDataset
from pipeline.evaluation.model import Model
from pipeline.system.console import UserError, run
from pipeline.training import live

PACKED, MODEL = Path("data/packed/things"), Path("models/things-mlp")
Stage = Callable[..., Ran]
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a model of two seeds; tests must leave its files as they are."""
    project = Project(tmp_path_factory.mktemp("damage"))
    pack(project.root / PACKED)
    picture(1).save(project.root / "photo.png")
    project.dataset("things", "data/raw/things", [6, 5])
    project.experiment("things-mlp", "things", epochs=1, seeds=2, compute={"device": "cpu", "threads": 1})
    project.command("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setattr(live, "SHORT", 1e9)
        patch.setattr(sys, "argv", ["train", "things-mlp"])
        train.main()
    return project


@pytest.fixture
def damaged(trained: Project, tmp_path: Path) -> Path:
    """A copy of the project, to damage something in."""
    return shutil.copytree(trained.root, tmp_path / "copy")


@pytest.fixture
def stage(
    damaged: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Stage:
    """Run a stage in this process, in the damaged project; an exception not meant for people comes through."""
    monkeypatch.chdir(damaged)

    def do(module: Any, *arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as raised:
            run(partial(evaluate.main, *arguments) if module is evaluate else module.main)
        return Ran(int(str(raised.value.code)), *capsys.readouterr())

    return do


def test_nothing_is_said_of_whole_files(stage: Stage) -> None:
    assert stage(train, "things-mlp").status == 0
    assert stage(evaluate, "things-mlp").status == 0
    assert stage(predict, "--model", str(MODEL), "photo.png").status == 0


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def says(**changes: Any) -> Damage:
    """A JSON file with other values; of None, without the key."""

    def change(file: Path) -> None:
        value = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: each for key, each in value.items() if each is not None}))

    return change


def holds(content: bytes | str) -> Damage:
    return lambda file: file.write_bytes(content if isinstance(content, bytes) else content.encode())


def with_images(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda file: np.save(file, change(np.load(file)))


def with_index(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    return lambda file: change(pd.read_parquet(file)).to_parquet(file)


def with_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    return lambda file: save_file(change(load_file(file)), file)


def full_of(value: float) -> Damage:
    return with_weights(lambda state: {name: torch.full_like(values, value) for name, values in state.items()})


ANY_JSON = {
    "no json": holds('{"classes": ['),
    "empty": holds(""),
    "no text": holds(b"\xff\xfe\x00"),
    "null": holds("null"),
    "a list": holds("[1, 2]"),
    "deep": holds("[" * 100_000),
    "without classes": says(classes=None),
    "no list of classes": says(classes="ant bee cat"),
    "classes without names": says(classes=[1, 2, 3]),
    "a class twice": says(classes=["ant", "ant", "cat"]),
}
DAMAGES: dict[str, dict[str, Damage]] = {
    f"{PACKED}/meta.json": {
        **ANY_JSON,
        "another number of images": says(images=40),
        "size as text": says(height="6"),
        "size of nothing": says(width=0),
        "no whole size": says(width=5.0),
        "without channels": says(channels=None),
        "fewer means": says(mean=[0.5]),
        "std of zero": says(std=[0.5, 0.0, 0.5]),
        "mean that is no number": lambda file: file.write_text(file.read_text().replace('"mean": [', '"mean": [NaN, ')),
        "without checksum": says(sha256=None),
        "preprocessing is text": says(preprocessing="none"),
        "other classes than the images": says(classes=["ant", "bee", "dog"]),
        "missing": Path.unlink,
    },
    f"{PACKED}/images.npy": {
        "cut short": cut,
        "a byte less": lambda file: file.write_bytes(file.read_bytes()[:-1]),
        "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        "empty": holds(""),
        "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
        "half a header": holds(b"\x93NUMPY\x01\x00v\x00{'descr': "),
        "a pixel": lambda file: flip(file, -7),
        "fewer images": with_images(lambda images: images[:-1]),
        "of another size": with_images(lambda images: images.transpose(0, 2, 1, 3).copy()),
        "in another order": with_images(np.asfortranarray),
        "flat": with_images(np.ravel),
        "of another type": with_images(lambda images: images.astype(np.int8)),
        "objects": lambda file: np.save(file, np.array([{}], object), allow_pickle=True),
        "several arrays": lambda file: np.savez(file.open("wb"), a=np.zeros(3)),
        "missing": Path.unlink,
    },
    f"{PACKED}/index.parquet": {
        "cut short": cut,
        "empty": holds(""),
        "no parquet": holds("path,label,split\n"),
        "fewer rows": with_index(lambda index: index[:-1]),
        "no rows": with_index(lambda index: index[:0]),
        "without a column": with_index(lambda index: index.drop(columns="split")),
        "numbers as labels": with_index(lambda index: index.assign(label=1)),
        "a null": with_index(lambda index: index.assign(label=index.label.where(index.path != "007.png"))),
        "another class": with_index(lambda index: index.replace({"label": {"cat": "dog"}})),
        "text as order": with_index(lambda index: index.assign(train_order="0.5")),
        "missing": Path.unlink,
    },
    f"{MODEL}/model.json": {
        **ANY_JSON,
        "fewer classes than the network": says(classes=["ant", "bee"]),
        "shape is a list": says(shape=[3, 6, 5, 3]),
        "shape without classes": says(shape={"channels": 3, "height": 6, "width": 5}),
        "without preprocessing": says(preprocessing=None),
        "fewer means": says(preprocessing={"mean": [0.5], "std": [1.0]}),
        "std of zero": says(preprocessing={"mean": [0.5] * 3, "std": [0.0] * 3}),
        "flip as text": says(preprocessing={"mean": [0.5] * 3, "std": [1.0] * 3, "tta": "no"}),
        "without a count": says(parameters=None),
        "network is text": says(network="mlp"),
        "unknown network": says(network={"name": "perceptron"}),
        "network of text": says(network={"name": "mlp", "hidden": "16"}),
        "too large a kernel": says(network={"name": "cnn", "convolutions": [2], "kernel": 9}),
        "missing": Path.unlink,
    },
    f"{MODEL}/model.safetensors": {
        "cut short": cut,
        "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        "empty": holds(""),
        "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
        "a weight that is no number": with_weights(
            lambda state: {k: v.clone().fill_(np.nan) for k, v in state.items()}
        ),
        "an infinite weight": full_of(np.inf),
        "of another type": with_weights(lambda state: {k: v.half() for k, v in state.items()}),
        "of another size": with_weights(lambda state: {k: v[:-1].clone() for k, v in state.items()}),
        "one less": with_weights(lambda state: dict(list(state.items())[1:])),
        "one more": with_weights(lambda state: {**state, "more": torch.zeros(1)}),
        "none": with_weights(lambda state: {}),
        "missing": Path.unlink,
    },
    f"{MODEL}/seed-2.safetensors": {
        "cut short": cut,
        "a weight that is no number": with_weights(
            lambda state: {k: v.clone().fill_(np.nan) for k, v in state.items()}
        ),
        "of another size": with_weights(lambda state: {k: v[:-1].clone() for k, v in state.items()}),
    },
}
CASES = [
    pytest.param(Path(file), damage, id=f"{Path(file).name}: {name}")
    for file, damages in DAMAGES.items()
    for name, damage in damages.items()
]


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_damage_is_told_in_one_line_and_nothing_is_made_of_it(
    damaged: Path, stage: Stage, file: Path, damage: Damage
) -> None:
    damage(damaged / file)
    before = files(damaged)
    ran = [stage(evaluate, "things-mlp")]
    if PACKED in file.parents:
        ran.append(stage(train, "things-mlp"))
    elif file.name.startswith("model."):
        ran.append(stage(predict, "--model", str(MODEL), "photo.png"))
    for each in ran:
        what = "pack@things" if PACKED in file.parents else "train@things-mlp"
        failed_in_one_line(each, str(file.parent), file.name, f"dvc repro {what}")
        assert each.out == ""
        assert len(each.err) < 500
    assert files(damaged) == before


def test_a_flipped_label_is_told(damaged: Path, stage: Stage) -> None:
    """`pack` writes checksums into its table: a damaged page of it never becomes another label."""
    file = damaged / PACKED / "index.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, write_page_checksum=True, compression="none", use_dictionary=False)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x03\0\0\0cat", b"\x03\0\0\0bee", 1))
    assert file.read_bytes() != content
    assert set(pq.read_table(file)["label"].to_pylist()) == {"ant", "bee", "cat"}
    failed_in_one_line(stage(train, "things-mlp"), "index.parquet is damaged", "dvc repro pack@things")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([file for file in DAMAGES if "seed" not in file]),
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
    value=st.integers(0, 255),
)
def test_whatever_bytes_change(
    trained: Project, damaged: Path, one_thread: None, name: str, places: list[float], value: int
) -> None:
    """Opened, or refused in one line that names a file and the stage: nothing else."""
    whole, file = (trained.root / name).read_bytes(), damaged / name
    content = bytearray(whole)
    head = min(len(whole), 400) if file.suffix in (".npy", ".safetensors") else len(whole)  # where mistakes are various
    for place in places:
        content[int(place * head)] = value
    file.write_bytes(content)
    told = f"{file.parent}/, dvc repro "
    try:
        open_all(file.parent)
    except UserError as error:
        told = str(error)
    file.write_bytes(whole)
    assert f"{file.parent}/" in told and "dvc repro " in told and "\n" not in told


def open_all(folder: Path) -> None:
    if (folder / "model.json").exists():
        Model(folder)
        return
    packed = PackedDataset(folder)
    packed.verify()
    assert len(packed.index) == len(packed.labels) == len(packed.images)
