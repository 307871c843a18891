"""What `evaluate` writes beside accuracy: calibration, metrics of each class, slices, confusions and galleries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import Project, edit
from sklearn import metrics
from test_evaluate import (
    BRIGHTNESS,
    SHARPNESS,
    Evaluate,
    mixed_rows,
    read_predictions,
    write_images,
    write_model,
    write_provenance,
)
from test_evaluate import _restore_torch as _restore_torch
from test_evaluate import evaluated as evaluated
from test_evaluate import mixed as mixed
from test_training import stage
from things import pack

from pipeline.evaluation import grid, predictions
from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.model import Model
from pipeline.images.tables import CHECKED, read_columns, write_tables
from pipeline.system.console import UserError

CLASSES = list(BRIGHTNESS)
Rows = list[tuple[str, str, float]]


def read_metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN


def probabilities(split: str, temperature: float = 1.0) -> np.ndarray:
    """What the model must say of the images of `mixed_rows` in one split."""
    values = np.array([round(255 * value) / 255 for _, given, value in mixed_rows() if given == split])
    centers = np.array(list(BRIGHTNESS.values()))
    logits = SHARPNESS * (2 * values[:, None] * centers - centers**2) / temperature
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def set_temperature(project: Project, value: object) -> None:
    file = project.root / "models/grays-near/model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "temperature": value}))
    write_provenance(project.root)


def test_metrics_of_classes_and_confusions_of_both_splits(mixed: Rows, evaluated: Evaluate) -> None:
    folder = evaluated()
    table, confused = (pd.read_csv(folder / name) for name in ("per_class.csv", "confusions.csv"))
    assert list(table) == ["split", "class", "images", "precision", "recall", "f1", "specificity", "auc"]
    assert list(table["split"]) == ["val"] * 3 + ["test"] * 3 and list(table["class"]) == CLASSES * 2
    assert list(confused) == ["split", "actual", "predicted", "count", "share"]
    for split in ("val", "test"):
        given, found = read_predictions(folder, split), table[table["split"] == split]
        report = metrics.precision_recall_fscore_support(given.label, given.predicted, labels=CLASSES)
        for column, values in zip(("precision", "recall", "f1", "images"), report, strict=True):
            assert found[column].to_numpy() == pytest.approx(values, abs=1e-5)
        areas = [
            metrics.roc_auc_score(given.label == name, probabilities(split)[:, number])
            for number, name in enumerate(CLASSES)
        ]
        assert found["auc"].to_numpy() == pytest.approx(areas, abs=1e-5)
        assert read_metrics(folder)[split]["macro_auc"] == pytest.approx(np.mean(areas))
        wrong = given[given.label != given.predicted].groupby(["label", "predicted"]).size()
        pairs = confused[confused["split"] == split]
        assert dict(zip(zip(pairs["actual"], pairs["predicted"], strict=True), pairs["count"], strict=True)) == dict(
            wrong
        )
        assert list(pairs["count"]) == sorted(pairs["count"], reverse=True)
        assert pairs["share"].to_numpy() == pytest.approx(
            [count / (given.label == name).sum() for name, count in zip(pairs["actual"], pairs["count"], strict=True)],
            abs=1e-5,
        )


def test_probabilities_are_calibrated_and_the_loss_is_not(project: Project, mixed: Rows, evaluated: Evaluate) -> None:
    before = read_metrics(evaluated())
    set_temperature(project, 2.5)
    folder = evaluated()
    after = read_metrics(folder)
    for split in ("val", "test"):
        given = read_predictions(folder, split)
        assert given["probability"].to_numpy() == pytest.approx(probabilities(split, 2.5).max(1), abs=1e-5)
        for key in ("accuracy", "loss", "macro_f1", "ece_uncalibrated"):
            assert after[split][key] == before[split][key]
        assert before[split]["ece"] == pytest.approx(before[split]["ece_uncalibrated"], abs=1e-6)
        assert abs(after[split]["ece"] - before[split]["ece"]) > 0.001
        bins = pd.cut(given["probability"], list(np.arange(16) / 15))
        right = (given.label == given.predicted).groupby(bins, observed=True)
        gaps = (right.mean() - given["probability"].groupby(bins, observed=True).mean()).abs() * right.size()
        assert after[split]["ece"] == pytest.approx(gaps.sum() / len(given), abs=1e-6)
    model = Model(project.root / "models/grays-near")
    image = np.full((1, 4, 4, 1), 51, np.uint8)
    logits = SHARPNESS * np.array([2 * 0.2 * center - center**2 for center in BRIGHTNESS.values()]) / 2.5
    assert model.probabilities(image)[0] == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "1", True, None, [1.0]])
def test_a_temperature_that_is_none(project: Project, mixed: Rows, evaluated: Evaluate, value: object) -> None:
    set_temperature(project, value)
    with pytest.raises(UserError, match=r"model\.json is damaged \(temperature = .*expected a finite number above 0\)"):
        evaluated()


def change_checked(project: Project, **columns: Any) -> None:
    """Give the images other properties than those of their pixels."""
    file = project.root / "data/checked/grays.parquet"
    table, classes = read_columns(file)
    rows = table.to_pandas().assign(**columns)
    write_tables(file, [pa.Table.from_pandas(rows, CHECKED, preserve_index=False)], classes)


def test_accuracy_by_slices(project: Project, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    """Of val the images of one group, which are also small, are wrong; of test none is. Paths name the class."""
    rows = [("ant", "val", 0.1 if number % 4 else 0.8) for number in range(40)]
    rows += [("bee", "val", 0.4)] * 60 + [("ant", "test", 0.1)] * 20
    write_images(project.root, rows, CLASSES)
    write_model(project.root, BRIGHTNESS)
    wrong = [value == 0.8 for _, _, value in rows]
    change_checked(
        project,
        width=np.where(wrong, 10, 20),
        height=30,
        listed_group=["=A" if is_wrong else "B" if label == "bee" else None for is_wrong, (label, *_) in
                      zip(wrong, rows, strict=True)],
    )  # fmt: skip
    folder = evaluated()
    table = pd.read_csv(folder / "slices.csv", dtype={"slice": str})
    assert list(table) == ["split", "attribute", "slice", "images", "accuracy", "low", "high", "p_value"]
    val = table[table["split"] == "val"].drop(columns="split").set_index(["attribute", "slice"])
    assert {index: (row["images"], row["accuracy"]) for index, row in val.iterrows()} == {
        ("pixels", "300"): (10, 0.0), ("pixels", "600"): (90, 1.0),
        ("brightness", "0.102"): (30, 1.0), ("brightness", "0.400"): (60, 1.0), ("brightness", "0.800"): (10, 0.0),
        ("group", "'=A"): (10, 0.0), ("group", "B"): (60, 1.0),
        ("class", "ant"): (40, 0.75), ("class", "bee"): (60, 1.0),
    }  # fmt: skip
    assert val.loc[("class", "ant"), ["low", "high"]].to_list() == pytest.approx(
        [float(bound) for bound in wilson(30, 40)], abs=1e-5
    )
    # all of test are alike in everything: no slices
    assert not (table["split"] == "test").any()
    printed = capsys.readouterr().out.splitlines()
    assert printed[2] == "grays-near: worst slice of val: pixels 300: accuracy 0.0000 (0.0000 to 0.2775) on 10 images"

    project.params["datasets"]["grays"]["split"]["group_by"] = r"/\d\d(\d)"
    project.command("evaluate")
    table = pd.read_csv(evaluated() / "slices.csv", dtype={"slice": str})
    groups = table[(table["attribute"] == "group") & (table["split"] == "val")]
    assert list(groups["slice"]) == [str(digit) for digit in range(10)] and set(groups["images"]) == {10}


def test_groups_that_only_train_are_no_slices(project: Project, evaluated: Evaluate) -> None:
    write_images(project.root, [("ant", "train", 0.1), *[("ant", "val", 0.1), ("bee", "test", 0.4)] * 3], CLASSES)
    write_model(project.root, BRIGHTNESS)
    change_checked(project)
    project.params["datasets"]["grays"]["split"]["group_by"] = "000"
    project.command("evaluate")
    assert "group" not in set(pd.read_csv(evaluated() / "slices.csv")["attribute"])


def test_many_values_are_cut_into_parts_with_as_many_images(
    project: Project, mixed: Rows, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    change_checked(project, width=np.arange(70) + 1, height=10)
    table = pd.read_csv(evaluated() / "slices.csv")
    for split in ("val", "test"):
        given = table[(table["split"] == split) & (table["attribute"] == "pixels")]
        assert given["slice"].is_unique and len(given) == 4
    images = table[table["attribute"] == "pixels"].groupby("slice")["images"].sum()
    assert list(images) == [10] * 4
    assert "worst slice" not in capsys.readouterr().out  # chance makes as much of a difference


def test_properties_that_are_not_there(project: Project, mixed: Rows, evaluated: Evaluate) -> None:
    file = project.root / "data/checked/grays.parquet"
    table, classes = read_columns(file)
    write_tables(file, [table.slice(1)], classes)
    with pytest.raises(UserError, match=r"grays\.parquet lacks images .* run dvc repro split@grays"):
        evaluated()
    file.unlink()
    with pytest.raises(UserError, match=r"data/checked/grays\.parquet is not there: run dvc repro check@grays"):
        evaluated()


def test_galleries_show_validation_images(
    project: Project, mixed: Rows, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, tuple[list[grid.Tile], str]] = {}
    original = grid.draw_grid

    def draw(path: Path, tiles: list[grid.Tile], heading: str = "") -> None:
        drawn[path.name] = (tiles, heading)
        original(path, tiles, heading)

    monkeypatch.setattr(grid, "draw_grid", draw)
    given = read_predictions(evaluated(), "val")
    given["right"] = given.label == given.predicted
    worst = given[~given.right].sort_values("probability", ascending=False, kind="stable")
    tiles, heading = drawn["gallery_worst.png"]
    assert heading == f"val: the most confident of {len(worst)} wrong images" and len(worst) > 1
    assert [tile.title for tile in tiles] == [
        f"{row.path}\n{row.predicted} {row.probability:.0%}\nis {row.label}" for row in worst.itertuples()
    ]
    tiles, heading = drawn["gallery_uncertain.png"]
    assert heading == "val: the least certain of 10 images"
    assert [tile.title.split("\n")[0] for tile in tiles] == list(given.sort_values("probability", kind="stable").path)
    assert {tile.color for tile in tiles} == {"red", "green"}

    project.params["experiments"]["grays-near"]["train_on_val"] = True  # it has no others than test images
    project.command("evaluate")
    evaluated()
    assert drawn["gallery_uncertain.png"][1] == "test: the least certain of 30 images"


@pytest.mark.parametrize(
    ("val", "areas"),
    [
        ([("ant", 0.1), ("bee", 0.4), ("ant", 0.4)], 1.0),
        ([("ant", 0.1)] * 3, None),  # one class only, all right
        ([("bee", 0.1)] * 3, None),  # all wrong
    ],
)
def test_three_validation_images_of_two_classes(
    project: Project, evaluated: Evaluate, val: list[tuple[str, float]], areas: float | None
) -> None:
    two = {"ant": 0.1, "bee": 0.4}
    rows = [(label, "val", value) for label, value in val] + [("ant", "test", 0.1), ("bee", "test", 0.4)]
    write_images(project.root, rows, list(two))
    write_model(project.root, two)
    folder = evaluated()
    written = read_metrics(folder)
    assert "top5_accuracy" not in written["val"]
    assert ("macro_auc" in written["val"]) == (areas is not None)
    assert written["test"]["macro_auc"] == 1
    assert 0 <= written["val"]["accuracy_low"] <= written["val"]["accuracy"] <= written["val"]["accuracy_high"] <= 1
    table = pd.read_csv(folder / "per_class.csv")
    assert table["recall"].isna().sum() == 2 - len({label for label, _ in val})  # not of classes without images


def test_more_probabilities_than_memory_holds(
    mixed: Rows, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_metrics(evaluated())
    capsys.readouterr()
    # those of 10 validation images of 3 classes, and not of 30 more
    monkeypatch.setattr(predictions, "MOST_PROBABILITIES", 50)
    folder = evaluated()
    assert capsys.readouterr().out.splitlines()[-1].startswith("grays-near: no AUC and no curves")
    written = read_metrics(folder)
    assert expected["test"].pop("macro_auc")
    assert written == expected
    table = pd.read_csv(folder / "per_class.csv")
    assert list(table["auc"].isna()) == [False] * 3 + [True] * 3
    assert (folder / "curves.png").exists()


def test_of_more_than_five_classes_the_best_five_count(project: Project, evaluated: Evaluate) -> None:
    """The model names the nearest of eight levels of gray: the right one is the n-th nearest."""
    levels = {f"level {number}": number / 8 for number in range(8)}
    names = list(levels)
    rows = [(names[0], "test", number / 8 - 0.01) for number in range(1, 8)]
    write_images(project.root, rows, names)
    write_model(project.root, levels)
    written = read_metrics(evaluated())["test"]
    nearest = [
        sorted(range(8), key=lambda level: abs(level / 8 - round(255 * value) / 255)).index(0) for *_, value in rows
    ]
    assert written["top5_accuracy"] == np.mean([place < 5 for place in nearest]) and 0 < written["top5_accuracy"] < 1


def test_training_ends_with_a_temperature(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(project.root / "data/packed/things")
    project.dataset("things", "data/raw/things", [6, 5])
    folder = stage(project, monkeypatch, "things-mlp", seeds=2, seed=4, epochs=3)
    about = json.loads((folder / "model.json").read_text())
    assert about["temperature"] > 0 and list(about["other_temperatures"]) == ["seed-5.safetensors"]
    model = Model(folder)
    assert model.temperature == about["temperature"]
    model.load(folder / "seed-5.safetensors")
    assert model.temperature == about["other_temperatures"]["seed-5.safetensors"] != about["temperature"]

    folder = stage(project, monkeypatch, "things-mlp", train_on_val=True, epochs=1)
    assert not {"temperature", "other_temperatures"} & json.loads((folder / "model.json").read_text()).keys()
    assert Model(folder).temperature == 1
    edit(folder / "model.json", '"parameters"', '"other_temperatures": {"seed-5.safetensors": 0}, "parameters"')
    with pytest.raises(UserError, match="temperature = 0; expected a finite number above 0"):
        Model(folder)
