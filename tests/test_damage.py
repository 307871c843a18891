"""Packed data and models that were damaged: one line names the file and what to do, and nothing is made of them."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Project, Ran, failed_in_one_line, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_training import files
from things import Runs, opened, pack
from things import one_thread as one_thread

from pipeline import evaluate, predict, train
from pipeline.evaluation.model import Model
from pipeline.system.console import UserError, run
from pipeline.training import live

PACKED, SPLITS, MODEL = Path("data/packed/things"), Path("data/splits/things.parquet"), Path("models/things-mlp")
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


def with_table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """A parquet file with another table, and what its metadata said."""

    def changed(file: Path) -> None:
        metadata = pq.read_schema(file).metadata
        table = pa.Table.from_pandas(change(pd.read_parquet(file)), preserve_index=False)
        pq.write_table(table.replace_schema_metadata(metadata), file)

    return changed


def with_classes(classes: bytes | None) -> Damage:
    """A parquet file with another list of classes in its metadata, or with none."""
    metadata = None if classes is None else {b"classes": classes}
    return lambda file: pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)


def with_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    return lambda file: save_file(change(load_file(file)), file)


def full_of(value: float) -> Damage:
    return with_weights(lambda state: {name: torch.full_like(values, value) for name, values in state.items()})


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The beginning of an array of uint8 of that shape."""
    described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(described)) + described


def safetensors(header: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header.encode()


TRAP = Runs(Path("trap"))  # would be found among the project's files
TENSOR = '{"1.weight": {"dtype": "F32", "shape": [16, 90], "data_offsets": [%d, %d]}}'
NO_JSON = {
    "no json": holds('{"classes": ['),
    "empty": holds(""),
    "no text": holds(b"\xff\xfe\x00"),
    "null": holds("null"),
    "a list": holds("[1, 2]"),
    "deep": holds("[" * 100_000),
}
FAULTY_CLASSES = {
    "without classes": says(classes=None),
    "no list of classes": says(classes="ant bee cat"),
    "classes without names": says(classes=[1, 2, 3]),
    "a class twice": says(classes=["ant", "ant", "cat"]),
}
DAMAGES: dict[str, dict[str, Damage]] = {
    f"{PACKED}/meta.json": {
        **NO_JSON,
        "another number of images": says(images=40),
        "size as text": says(height="6"),
        "size of nothing": says(width=0),
        "no whole size": says(width=5.0),
        "without channels": says(channels=None),
        "without checksum": says(sha256=None),
        "preprocessing is text": says(preprocessing="none"),
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
        "a pickle": lambda file: np.save(file, np.array([TRAP], object), allow_pickle=True),
        "says that it has 10 TB": holds(npy_header((10**11, 6, 5, 3))),
        "says more than can be counted": holds(npy_header((2**62, 2**62))),
        "several arrays": lambda file: np.savez(file.open("wb"), a=np.zeros(3)),
        "missing": Path.unlink,
    },
    f"{PACKED}/index.parquet": {
        "cut short": cut,
        "empty": holds(""),
        "no parquet": holds("path,sum_0\n"),
        "fewer rows": with_table(lambda index: index[:-1]),
        "no rows": with_table(lambda index: index[:0]),
        "without a column": with_table(lambda index: index.drop(columns="sum_of_squares_2")),
        "numbers as paths": with_table(lambda index: index.assign(path=1)),
        "a null": with_table(lambda index: index.assign(path=index.path.where(index.path != "007.png"))),
        "text as sums": with_table(lambda index: index.assign(sum_1="7")),
        "missing": Path.unlink,
    },
    f"{SPLITS}": {
        "cut short": cut,
        "empty": holds(""),
        "no parquet": holds("path,label,split\n"),
        "without a column": with_table(lambda table: table.drop(columns="split")),
        "numbers as labels": with_table(lambda table: table.assign(label=1)),
        "a null": with_table(lambda table: table.assign(label=table.label.where(table.path != "007.png"))),
        "another class": with_table(lambda table: table.replace({"label": {"cat": "dog"}})),
        "text as order": with_table(lambda table: table.assign(train_order="0.5")),
        "without classes": with_classes(None),
        "no list of classes": with_classes(b'"ant bee cat"'),
        "classes without names": with_classes(b"[1, 2, 3]"),
        "a class twice": with_classes(b'["ant", "ant", "cat"]'),
        "classes that are no json": with_classes(b'["ant", \xff'),
        "other classes than the images": with_classes(b'["ant", "bee", "dog"]'),
        "missing": Path.unlink,
    },
    f"{MODEL}/model.json": {
        **NO_JSON,
        **FAULTY_CLASSES,
        "fewer classes than the network": says(classes=["ant", "bee"]),
        "shape is a list": says(shape=[3, 6, 5, 3]),
        "shape without classes": says(shape={"channels": 3, "height": 6, "width": 5}),
        "without preprocessing": says(preprocessing=None),
        "fewer means": says(preprocessing={"mean": [0.5], "std": [1.0]}),
        "std of zero": says(preprocessing={"mean": [0.5] * 3, "std": [0.0] * 3}),
        "views as text": says(preprocessing={"mean": [0.5] * 3, "std": [1.0] * 3, "tta": "no"}),
        "without a count": says(parameters=None),
        "network is text": says(network="mlp"),
        "unknown network": says(network={"name": "perceptron"}),
        "network of text": says(network={"name": "mlp", "hidden": "16"}),
        "too large a kernel": says(network={"name": "cnn", "convolutions": [2], "kernel": 9}),
        "missing": Path.unlink,
    },
    f"{MODEL}/model.safetensors": {
        "cut short": cut,
        "a pickle": lambda file: torch.save({"1.weight": TRAP}, file),
        "a header of 8 EB": holds(safetensors("{}", 2**63)),
        "a tensor of 10 TB": holds(safetensors(TENSOR % (0, 10**13))),
        "a tensor from behind": holds(safetensors(TENSOR % (5760, 0)) + bytes(5760)),
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
        "of another training": with_weights(lambda state: {k: v / 2 for k, v in state.items()}),
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
    if MODEL not in file.parents:
        ran.append(stage(train, "things-mlp"))
    elif file.name.startswith("model."):
        ran.append(stage(predict, "--model", str(MODEL), "photo.png"))
    for each in ran:
        what = {PACKED: "pack@things", SPLITS.parent: "split@things", MODEL: "train@things-mlp"}[file.parent]
        failed_in_one_line(each, str(file.parent), file.name, f"dvc repro {what}")
        assert each.out == ""
        assert len(each.err) < 500
    assert files(damaged) == before


def test_a_flipped_label_is_told(damaged: Path, stage: Stage) -> None:
    """`split` writes checksums into its table: a damaged page of it never becomes another label."""
    file = damaged / SPLITS
    table = pq.read_table(file)
    pq.write_table(table, file, write_page_checksum=True, compression="none", use_dictionary=False)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x03\0\0\0cat", b"\x03\0\0\0bee", 1))
    assert file.read_bytes() != content
    assert set(pq.read_table(file)["label"].to_pylist()) == {"ant", "bee", "cat"}
    failed_in_one_line(stage(train, "things-mlp"), "things.parquet is damaged", "dvc repro split@things")


@pytest.mark.parametrize("stage_", [train, evaluate])
def test_splits_of_images_that_are_not_packed(damaged: Path, stage: Stage, stage_: ModuleType) -> None:
    with_table(lambda table: table.replace({"path": {"007.png": "new.png"}}))(damaged / SPLITS)
    before = files(damaged)
    failed_in_one_line(
        stage(stage_, "things-mlp"), "'new.png'", f"not in {PACKED}", "dvc repro pack@things split@things"
    )
    assert files(damaged) == before


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
        open_all(damaged, file)
    except UserError as error:
        told = str(error)
    file.write_bytes(whole)
    assert str(file.parent) in told and "dvc repro " in told and "\n" not in told


def open_all(root: Path, file: Path) -> None:
    if file.is_relative_to(root / MODEL):
        Model(root / MODEL)
        return
    packed = opened(root / PACKED)
    packed.verify()
    assert len(packed.index) == len(packed.labels) == len(packed.images)
    assert len(packed.table) == len(packed.positions)
