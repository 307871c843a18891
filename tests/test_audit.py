"""Likely wrong labels, outliers and near copies by a backbone's features, from the images to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Clone, Project, failed_in_one_line, imported, make_clone, noted, write_manifest
from PIL import Image, ImageEnhance
from test_pipeline import assert_rooms
from test_report import Browser
from test_report import chromium as chromium
from things import write_packed

from pipeline.config.params import validated
from pipeline.images.tables import CHECKED
from pipeline.splitting.decisions import read_rows
from pipeline.system.console import UserError

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
WEIGHTS = "data/raw/squeezenet.pth"
FEATURES: dict[str, Any] = {"network": {"name": "torchvision", "model": "squeezenet1_1"}, "weights": WEIGHTS}
WRONG = {"train/blue/04.png": "green", "train/green/07.png": "red", "train/red/11.png": "blue"}
COPIES = {("test/green/00.png", "train/green/00.png"), ("train/red/00.png", "train/red/copy.png")}
OUTLIER = "train/blue/odd.png"


def picture(number: int, color: tuple[int, int, int]) -> Image.Image:
    """Clouds of a class's color, others for every number."""
    clouds = np.random.default_rng(number).integers(0, 90, (6, 6, 3)) + np.array(color) * 0.7
    return Image.fromarray(clouds.clip(0, 255).astype(np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)


def write_images(root: Path) -> None:
    number = 0
    for split, count in (("train", 24), ("test", 8)):
        for label in COLORS:
            (root / split / label).mkdir(parents=True)
            for position in range(count):
                path = f"{split}/{label}/{position:02d}.png"
                number += 1
                picture(number, COLORS[WRONG.get(path, label)]).save(root / path)
    for first, second in COPIES:
        copied, other = (second, first) if first.startswith("test/") else (first, second)
        ImageEnhance.Contrast(Image.open(root / copied)).enhance(0.95).save(root / other)
    stripes = np.indices((48, 48)).sum(0) // 2 % 2 * 255
    Image.fromarray(stripes.astype(np.uint8)).convert("RGB").save(root / OUTLIER)


def write_weights(file: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with its own images and weights, in which DVC has run all stages that lead to the page."""
    clone = make_clone(tmp_path_factory.mktemp("audit") / "clone")
    write_images(clone.root / "data/raw/clouds")
    write_weights(clone.root / WEIGHTS)
    check = {"near_duplicates": False}  # so that there are copies that only features find
    dataset = {"source": "data/raw/clouds", "check": check, "split": {"val": 0}, "pack": {"size": 48}}
    params = {"seed": 1, "downloads": {}, "datasets": {"clouds": dataset}, "experiments": {}}
    (clone.root / "params.yaml").write_text(json.dumps({**params, "features": {"clouds": FEATURES}}))
    clone.must_run("dvc", "repro", "audit@clouds", **noted(clone))
    return clone


def page_of(clone: Clone) -> Path:
    return clone.root / "reports/clouds/audit.html"


def found(clone: Clone) -> pd.DataFrame:
    return pd.read_parquet(clone.root / "reports/clouds/audit.parquet").set_index("path")


def test_wrong_labels_come_first_with_the_right_class(clone: Clone) -> None:
    images = found(clone)
    assert images.suggested[images.wrong_label].to_dict() == WRONG
    assert set(images.sort_values("margin").index[: len(WRONG)]) == set(WRONG)


def test_the_outlier_is_the_farthest(clone: Clone) -> None:
    images = found(clone)
    assert images.distance.idxmax() == OUTLIER and images.outlier[OUTLIER]
    assert images.outlier.sum() < 8


def test_copies_that_hashes_missed(clone: Clone) -> None:
    pairs = pd.read_parquet(clone.root / "reports/clouds/near_copies.parquet")
    assert set(zip(pairs.first_path, pairs.second_path, strict=True)) == COPIES
    across = pairs[pairs.first_split != pairs.second_split]
    assert across.first_path.tolist() == ["test/green/00.png"]  # the stronger split stands first
    summary = json.loads((clone.root / "reports/clouds/audit.json").read_text())
    assert {key: summary[key] for key in ("wrong_label", "copy_across_splits", "near_copy")} == {
        **{"wrong_label": 3, "copy_across_splits": 1, "near_copy": 1},
    }


def test_dvc_finds_everything_up_to_date(clone: Clone) -> None:
    ran = clone.must_run("dvc", "status", "--with-deps", "audit@clouds")
    assert ran.out.strip() == "Data and pipelines are up to date."
    assert clone.must_run("git", "status", "--porcelain", "--", "*.html", "*.parquet", "*.npy").out == ""


@pytest.mark.parametrize(("stage", "network"), [("features", "torchvision"), ("audit", "")])
def test_a_stage_names_the_rooms_it_uses(clone: Clone, stage: str, network: str) -> None:
    modules, heavy = imported(clone, stage, "clouds")
    assert_rooms(modules, stage, network, f"pipeline/{stage}.py")
    assert stage != "audit" or "torch" not in heavy


@pytest.fixture
def browser(chromium: Browser, clone: Clone) -> Browser:
    chromium.open(page_of(clone))
    return chromium


def test_the_page_lists_the_findings(browser: Browser, clone: Clone) -> None:
    assert browser.errors() == []
    listed = browser.listed()
    assert set(listed) >= {"wrong_label", "copy_across_splits", "near_copy", "outlier"}
    assert list(listed)[:2] == ["wrong_label", "copy_across_splits"]
    assert set(listed["wrong_label"]) == set(WRONG)
    assert set(browser.texts("#wrong_label .label")) == {"blue → green?", "green → red?", "red → blue?"}
    assert listed["copy_across_splits"] == ["test/green/00.png", "train/green/00.png"]
    assert browser.texts("#copy_across_splits .metadata")[0].startswith("test")
    assert listed["outlier"][0] == OUTLIER
    assert browser.script("return document.querySelectorAll('#wrong_label img').length") == 3


def test_ticks_become_labels_and_drops(browser: Browser, tmp_path: Path) -> None:
    for section in ("wrong_label", "copy_across_splits"):  # wherever they are on the page
        browser.script("document.querySelector(arguments[0]).click()", f"#{section} .tick")
    assert browser.texts("#decisions b") == ["1 image to drop, 3 images to relabel."]
    assert browser.texts("#decisions code")[1] == "dvc repro split@clouds audit@clouds"
    file = tmp_path / "clouds.csv"
    file.write_text(browser.find("#decisions textarea").get_property("value"))
    lines = {line["path"]: (line["decision"], line["label"]) for line in read_rows(file)}
    assert lines == {**{path: ("", label) for path, label in WRONG.items()}, "train/green/00.png": ("drop", "")}


def test_what_was_decided_is_wrong_no_more(clone: Clone, chromium: Browser) -> None:
    """By the stages themselves: the features are not computed again for another label."""
    root = clone.root
    (root / "data/decisions/clouds.csv").write_text(
        "path,decision,label,note\ntrain/blue/04.png,,green,\ntrain/green/00.png,drop,,\n"
    )
    ran = clone.must_run("dvc", "repro", "audit@clouds")
    assert "Stage 'features@clouds' didn't change, skipping" in ran.out
    images = found(clone)
    assert images.label["train/blue/04.png"] == "green" and not images.wrong_label["train/blue/04.png"]
    assert "train/green/00.png" not in images.index


# what goes wrong


def project_of(root: Path, labels: list[str]) -> Project:
    """What the stages before `features` leave, of pictures that differ in color."""
    project = Project(root)
    project.dataset("clouds", "data/raw/clouds", 48)
    project.params["features"] = {"clouds": FEATURES}
    pixels = np.stack([np.asarray(picture(number, COLORS[label])) for number, label in enumerate(labels)])
    paths = [f"{number}.png" for number in range(len(labels))]
    table = pd.DataFrame({"path": paths, "label": labels, "split": "train", "train_order": 0.5})
    write_packed(root / "data/packed/clouds", pixels, table, sorted(set(labels)))
    rows = [{**dict.fromkeys(CHECKED.names), "path": path, "pixel_hash": path} for path in paths]
    write_manifest(root / "data/checked/clouds.parquet", rows, sorted(set(labels)))
    return project


def write_features(root: Path, features: np.ndarray) -> None:
    (root / "data/features").mkdir(parents=True, exist_ok=True)
    np.save(root / "data/features/clouds.npy", features)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    ran = project_of(tmp_path, ["red", "blue"]).run("features", "clouds")
    failed_in_one_line(ran, WEIGHTS, "is not there", "features.clouds.weights")


@pytest.mark.parametrize(
    ("name", "features", "words"),
    [
        ("clouds", {"weights": "https://x.example/y.pth"}, ["features.clouds.weights", "path of a file"]),
        ("clouds", {"network": {**FEATURES["network"], "freeze": True}}, ["features.clouds", "network.freeze"]),
        ("clouds", {"network": {"name": "mlp"}}, ["features.clouds.network.name", "'torchvision'"]),
        ("cloud", {}, ["features.cloud:", "did you mean 'clouds'?"]),
    ],
)
def test_what_features_may_say(tmp_path: Path, name: str, features: dict[str, Any], words: list[str]) -> None:
    params = project_of(tmp_path, ["red", "blue"]).params
    with pytest.raises(UserError) as refused:
        validated({**params, "features": {name: {**FEATURES, **features}}})
    assert all(word in str(refused.value) for word in words), refused.value


def test_too_few_images_to_judge_labels(tmp_path: Path) -> None:
    project = project_of(tmp_path, ["red"] * 9 + ["blue"] * 4)
    write_features(tmp_path, np.random.default_rng(1).normal(size=(13, 8)).astype(np.float32))
    failed_in_one_line(project.run("audit", "clouds"), "labels can't be judged", "1 class")


def test_features_of_other_images(tmp_path: Path) -> None:
    project = project_of(tmp_path, ["red"] * 6 + ["blue"] * 6)
    write_features(tmp_path, np.zeros((11, 8), np.float32))
    failed_in_one_line(project.run("audit", "clouds"), "data/features/clouds.npy is damaged", "dvc repro features@")


def test_a_rare_class_is_named_and_the_rest_judged(tmp_path: Path) -> None:
    labels = ["red"] * 10 + ["blue"] * 10 + ["green"] * 2
    project = project_of(tmp_path, labels)
    points = np.random.default_rng(1).normal(size=(22, 8)).astype(np.float32)
    shown = ["blue" if number == 3 else label for number, label in enumerate(labels)]
    points[np.arange(22), [sorted(COLORS).index(label) for label in shown]] += 20
    write_features(tmp_path, points)
    ran = project.must_run("audit", "clouds")
    assert "not judged" in ran.out and "green" in ran.out
    images = pd.read_parquet(tmp_path / "reports/clouds/audit.parquet")
    assert images.path[images.wrong_label].tolist() == ["3.png"]
    assert images.margin[images.label == "green"].isna().all()
    before = {path.name: path.read_bytes() for path in (tmp_path / "reports/clouds").iterdir()}
    project.must_run("audit", "clouds", PYTHONHASHSEED="7", OMP_NUM_THREADS="2")
    assert {path.name: path.read_bytes() for path in (tmp_path / "reports/clouds").iterdir()} == before
