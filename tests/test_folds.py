"""One model for each fold: what each says of its own fold is put together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_training import files, stage
from things import CHANGES, CLASSES, MLP, config, opened, pack, splits_of
from things import one_thread as one_thread

from pipeline import compare, evaluate
from pipeline.dataset.batches import Batches
from pipeline.dataset.packed import PackedDataset
from pipeline.evaluation.model import Model
from pipeline.exporting.card import card
from pipeline.images.tables import SPLIT, write_tables
from pipeline.system.console import UserError
from pipeline.training.trainer import Row, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDS = 3


def split(folder: Path, validating: int, folds: int | np.ndarray = FOLDS) -> None:
    """Give the images of a packed data set folds, in turn or as given for each, of which one validates."""
    table = opened(folder).table
    tests = table.split == "test"
    numbers = np.arange(len(table)) % folds if isinstance(folds, int) else folds
    table["fold"] = pd.Series(numbers, table.index, dtype="Int32").mask(tests)
    table["split"] = np.where(tests, "test", np.where(numbers == validating, "val", "train"))
    rows = pa.Table.from_pandas(table[SPLIT.names], SPLIT, preserve_index=False)
    write_tables(splits_of(folder), [rows], CLASSES, SPLIT)


@pytest.fixture
def folded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(evaluate, "draw", lambda *arguments: None)  # most of the time of such small evaluations
    pack(project.root / "data/packed/things", count=100)
    split(project.root / "data/packed/things", validating=1)
    project.dataset("things", "data/raw/things", [6, 5], split={"folds": FOLDS, "fold": 1})
    return project


def evaluated(project: Project, name: str, **more: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The predictions and the metrics of an experiment that was trained."""
    project.experiment(name, "things", **more)
    project.command("evaluate")
    evaluate.main(name)
    folder = project.root / "reports" / name
    return pd.read_parquet(folder / "predictions.parquet"), json.loads((folder / "metrics.json").read_text())


def of_split(predictions: pd.DataFrame, name: str) -> pd.DataFrame:
    return predictions[predictions.split == name].set_index("path").sort_index()


def test_each_fold_is_predicted_by_the_model_that_was_trained_on_the_others(
    folded: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stage(folded, monkeypatch, "things-folds", folds="all")
    assert "things-folds: fold 2, training 3 of 3" in capsys.readouterr().out
    pooled, metrics = evaluated(folded, "things-folds", folds="all")
    assert "over 3 trainings" in capsys.readouterr().out

    counts = {"total": {"train": 64, "val": 33, "test": 3}}
    (folded.root / "reports/things").mkdir()
    (folded.root / "reports/things/split.json").write_text(json.dumps(counts))
    written = card(Model(folder), 0.0, "1", weights_beside=False)
    assert f"| val | 97 | {metrics['val']['accuracy']:.4f} |" in written and "val is what 3 trainings say" in written

    alone, accuracies = [], []
    for fold in range(FOLDS):
        split(folded.root / "data/packed/things", validating=fold)
        single = stage(folded, monkeypatch, f"things-{fold}")
        file = f"fold-{fold}.safetensors" if fold else "model.safetensors"
        assert (folder / file).read_bytes() == (single / "model.safetensors").read_bytes()
        predictions, own = evaluated(folded, f"things-{fold}")
        alone.append(predictions)
        accuracies.append([own[name]["accuracy"] for name in ("val", "test")])

    expected = pd.concat(of_split(predictions, "val") for predictions in alone).sort_index()
    pd.testing.assert_frame_equal(of_split(pooled, "val"), expected)
    every = opened(folded.root / "data/packed/things").table
    assert sorted(of_split(pooled, "val").index) == sorted(every.path[every.split != "test"])  # each of them once
    pd.testing.assert_frame_equal(of_split(pooled, "test"), of_split(alone[0], "test"))

    assert metrics["folds"] == FOLDS and "seeds" not in metrics
    assert metrics["val"]["accuracy"] == pytest.approx((expected.label == expected.predicted).mean())
    for number, name in enumerate(("val", "test")):
        values = [pair[number] for pair in accuracies]
        assert metrics[name]["accuracy_mean"] == pytest.approx(np.mean(values))
        assert metrics[name]["accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["test"]["accuracy"] == accuracies[0][1]
    summary = json.loads((folded.root / "reports/things-folds/summary.json").read_text())
    assert summary["things-folds"] == {"val": {key: metrics["val"][key] for key in ("accuracy_mean", "accuracy_sd")}}


def test_no_model_knows_the_labels_of_what_it_is_asked(folded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that say nothing can only be known by heart."""
    packed = folded.root / "data/packed/things"
    table = opened(packed).table
    table["label"] = np.random.default_rng(3).choice(CLASSES, len(table))
    rows = pa.Table.from_pandas(table, pa.schema([SPLIT.field(name) for name in table]), preserve_index=False)
    write_tables(splits_of(packed), [rows], CLASSES, rows.schema)
    split(packed, validating=0)
    config = {"folds": "all", "epochs": 60, "network": {**MLP, "hidden": [64]}}
    stage(folded, monkeypatch, "things-folds", **config)
    assert pd.read_csv("reports/things-folds/history.csv").train_accuracy.iloc[-1] > 0.95
    _, metrics = evaluated(folded, "things-folds", **config)
    assert metrics["val"]["accuracy"] < 0.6


def test_folds_of_one_class_have_no_auc(folded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = folded.root / "data/packed/things"
    label = opened(packed).table.label
    half = np.arange(len(label)) % 2 == 0
    split(packed, validating=1, folds=np.select([half & (label == name) for name in CLASSES[:2]], [1, 2]))
    stage(folded, monkeypatch, "things-folds", folds="all")
    _, metrics = evaluated(folded, "things-folds", folds="all")
    val, test = metrics["val"], metrics["test"]
    assert "macro_auc" in val and "accuracy_mean" in val and "macro_auc_mean" not in val
    assert "macro_auc_mean" in test


@given(st.data())
def test_folds_share_the_images_out(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    folds = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count)))
    packed: Any = object.__new__(PackedDataset)
    packed.fold, packed.positions = folds, np.random.default_rng(count).permutation(count)
    packed.splits = pa.table({"split": pa.array([""] * count), "train_order": [0.0] * count})
    validated: list[int] = []
    for fold in range(4):
        seen = packed.with_fold(fold)
        splits = {name: set(seen.rows(name)) for name in ("train", "val", "test")}
        assert not splits["train"] & splits["val"] and set().union(*splits.values()) == set(packed.positions)
        assert splits["test"] == set(packed.positions[folds < 0])
        validated += splits["val"]
    assert sorted(validated) == sorted(packed.positions[folds >= 0])


def test_each_is_normalized_by_its_own_training_images(folded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage(folded, monkeypatch, "things-folds", folds="all")
    about = json.loads((folder / "model.json").read_text())
    packed = opened(folded.root / "data/packed/things")
    found = [about["preprocessing"], *about["other_normalizations"].values()]
    for fold, values in enumerate(found):
        assert (values["mean"], values["std"]) == packed.with_fold(fold).normalization("dataset")
    assert len({str(values["mean"]) for values in found}) == FOLDS

    given: list[tuple[int, list[float]]] = []
    plain = Batches.__init__

    def watched(self: Batches, packed: PackedDataset, rows: Any, mean: list[float], *more: Any) -> None:
        given.append((len(rows), mean))
        plain(self, packed, rows, mean, *more)

    monkeypatch.setattr(Batches, "__init__", watched)
    evaluated(folded, "things-folds", folds="all")
    assert [mean for count, mean in given if count == 3] == [values["mean"] for values in found]  # of test images


def test_an_interruption_in_the_second_fold_changes_nothing(
    folded: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = {"folds": "all", "epochs": 3, "augment": CHANGES}
    expected = files(stage(folded, monkeypatch, "things-folds", **config))
    epochs: list[int] = []
    run_epoch = Trainer.run_epoch

    def interrupted(trainer: Trainer, epoch: int) -> Row:
        epochs.append(epoch)
        if len(epochs) == 5:  # the second of the second fold
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stage(folded, patched, "things-folds", **config)
    capsys.readouterr()
    assert files(stage(folded, monkeypatch, "things-folds", **config)) == expected
    out = capsys.readouterr().out
    assert "resuming after epoch 3 of 3" in out and "resuming after epoch 1 of 3" in out


def test_two_experiments_with_folds_are_compared_on_all_images(
    folded: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = {"folds": "all", "epochs": 60, "network": {**MLP, "hidden": [64]}}
    for name, seed in (("things-a", 1), ("things-b", 2)):
        stage(folded, monkeypatch, name, **learned, seed=seed)
        evaluated(folded, name, **learned, seed=seed)
    folded.experiment("things-a", "things", **learned, seed=1)
    folded.command("compare")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["compare", "things-a", "things-b"])
    compare.main()
    out = capsys.readouterr().out
    assert "On the same 97 validation images, each by the training that left its fold out:" in out
    assert "\nthings-b is not distinguishable from things-a by these images.\n" in out  # two seeds of one experiment


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seeds": 3}, "folds = 'all' and seeds = 3 exclude each other; expected one of them"),
        ({"train_on_val": True}, "folds = 'all' validates on each fold, and train_on_val trains on it"),
    ],
)
def test_what_excludes_folds(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(folds="all", **more)


def test_folds_that_are_not_there(folded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(folded, monkeypatch, "things-folds", folds="all")
    split(folded.root / "data/packed/things", validating=0, folds=4)
    with pytest.raises(UserError, match=r"holds 3 trainings, params.yaml wants folds = all, that is 4"):
        evaluated(folded, "things-folds", folds="all")
    table = opened(folded.root / "data/packed/things").table
    table["fold"] = pd.Series(None, table.index, dtype="Int32")
    rows = pa.Table.from_pandas(table, SPLIT, preserve_index=False)
    write_tables(splits_of(folded.root / "data/packed/things"), [rows], CLASSES, SPLIT)
    with pytest.raises(UserError, match=r"things.parquet has no folds: run dvc repro split@things"):
        stage(folded, monkeypatch, "things-folds", folds="all")
    folded.dataset("things", "data/raw/things", [6, 5])
    with pytest.raises(UserError, match=r"experiments.things-folds.folds = 'all': datasets.things.split has no folds"):
        stage(folded, monkeypatch, "things-folds", folds="all")


def test_one_with_all_folds_is_not_compared_with_one_without(folded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, more in (("things-folds", {"folds": "all"}), ("things-one", {})):
        folded.experiment(name, "things", **more)
        (folded.root / "reports" / name).mkdir(parents=True)
        (folded.root / "reports" / name / "metrics.json").write_text('{"parameters": 1, "trainable_parameters": 1}')
    folded.command("compare")
    monkeypatch.chdir(folded.root)
    monkeypatch.setattr(sys, "argv", ["compare", "things-folds", "things-one"])
    with pytest.raises(UserError, match="only one of things-folds and things-one has folds = all"):
        compare.main()
