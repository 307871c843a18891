"""The stage `evaluate`, with a model whose every answer is known: it names the class of the nearest brightness."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Project, edit, failed_in_one_line
from PIL import Image
from safetensors.torch import save_file
from scipy.sparse import csr_array
from sklearn import metrics
from things import write_packed

from pipeline import evaluate
from pipeline.evaluation import figures, grid
from pipeline.system.console import UserError
from pipeline.system.csv_cells import unescape_formula

SIDE = 4
BRIGHTNESS = {"ant": 0.1, "bee": 0.4, "cat": 0.8}
SHARPNESS = 20.0
Evaluate = Callable[[], Path]


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


def write_images(root: Path, rows: list[tuple[str, str, float]], classes: list[str]) -> None:
    """Pack gray images, one for each label, split and brightness."""
    values = np.array([round(255 * brightness) for _, _, brightness in rows], np.uint8)
    images = np.tile(values[:, None, None, None], (1, SIDE, SIDE, 1))
    table = pd.DataFrame(rows, columns=["label", "split", "brightness"])
    table["path"] = [f"{label}/{number:03d}.png" for number, label in enumerate(table.label)]
    table["train_order"] = 0.0
    write_packed(root / "data/packed/grays", images, table.drop(columns="brightness"), classes)


def write_model(root: Path, brightness: dict[str, float], side: int = SIDE) -> None:
    """Logits are linear in the mean m of an image: -(m - c)² + m² for a class of brightness c."""
    centers = torch.tensor(list(brightness.values()))
    state = {
        "1.weight": SHARPNESS * (2 * centers).view(-1, 1).repeat(1, side * side) / side**2,
        "1.bias": -SHARPNESS * centers**2,
    }
    folder = root / "models/grays-near"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    network = {"name": "mlp", "hidden": [], "activation": "relu", "batch_norm": False, "dropout": 0.0}
    about = {
        "network": {**network, "log_softmax": False, "initialization": "default"},
        "shape": {"channels": 1, "height": side, "width": side, "classes": len(brightness)},
        "classes": list(brightness),
        "dataset": "grays",
        "experiment": "grays-near",
        "preprocessing": {"mean": [0.0], "std": [1.0]},
        "parameters": 123,
        "trainable_parameters": 45,
    }
    (folder / "model.json").write_text(json.dumps(about))
    write_provenance(root)


def write_provenance(root: Path) -> None:
    """The part of it that says which files the model is."""
    files = (root / "models/grays-near").iterdir()
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    provenance = root / "reports/grays-near/provenance.json"
    provenance.parent.mkdir(parents=True, exist_ok=True)
    provenance.write_text(json.dumps({"model": hashes}))


def answer(value: float, brightness: dict[str, float] = BRIGHTNESS) -> tuple[str, float]:
    """What the model must say of an image: class and probability."""
    value = round(255 * value) / 255
    logits = np.array([SHARPNESS * (2 * center * value - center**2) for center in brightness.values()])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    return list(brightness)[probabilities.argmax()], probabilities.max()


def mixed_rows() -> list[tuple[str, str, float]]:
    """30 test images of all classes, right and wrong, between images that train and validate."""
    draw = np.random.default_rng(5)
    labels = draw.choice(list(BRIGHTNESS), 70)
    values = [float(np.clip(BRIGHTNESS[label] + draw.normal(0, 0.2), 0, 1)) for label in labels]
    splits = (["train", "test", "val", "test", "train", "test", "train"] * 10)[:70]
    return list(zip(labels, splits, values, strict=True))


@pytest.fixture
def evaluated(project: Project, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Run the stage in this process; any warning is an error."""
    project.dataset("grays", "data/raw/grays", SIDE, channels=1)
    project.experiment("grays-near", "grays", compute={"device": "cpu", "threads": 1})
    project.command("evaluate")
    monkeypatch.chdir(project.root)

    def run() -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate.main("grays-near")
        return project.root / "reports/grays-near"

    return run


@pytest.fixture
def mixed(project: Project) -> list[tuple[str, str, float]]:
    """A project with images of `mixed_rows` and the model for them. Returns the test rows."""
    write_images(project.root, mixed_rows(), list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    return [row for row in mixed_rows() if row[1] == "test"]


def read_predictions(folder: Path, split: str = "test") -> pd.DataFrame:
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return predictions[predictions.split == split]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 8, 3), (8, 1, 3), (8, 1, 1), (1, 8)])
def test_an_image_of_one_row_or_column_is_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    blue = np.full(shape, 200, np.uint8)
    if shape[2:] == (3,):
        blue[..., :2] = 0
    grid.draw_grid(tmp_path / "x.png", [grid.Tile(blue, "x", "green")])
    with Image.open(tmp_path / "x.png") as drawn:
        assert (0, 0, 200) in drawn.convert("RGB").get_flattened_data() or shape[2:] != (3,)


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_image_has_its_answer_once(mixed: list[tuple[str, str, float]], evaluated: Evaluate, split: str) -> None:
    folder = evaluated()
    mixed = [row for row in mixed_rows() if row[1] == split]
    assert list(pd.read_parquet(folder / "predictions.parquet").split) == ["val"] * 10 + ["test"] * 30
    predictions = read_predictions(folder, split)
    assert list(predictions) == ["path", "pixel_hash", "split", "label", "predicted", "probability"]
    paths = [f"{label}/{i:03d}.png" for i, (label, side, _) in enumerate(mixed_rows()) if side == split]
    assert list(predictions.path) == paths
    assert list(predictions.label) == [label for label, _, _ in mixed]
    expected = [answer(value) for _, _, value in mixed]
    assert list(predictions.predicted) == [name for name, _ in expected]
    assert predictions.probability.to_numpy() == pytest.approx([each for _, each in expected], abs=1e-5)
    assert predictions.probability.between(1 / 3, 1).all()
    assert set(predictions.predicted) == set(BRIGHTNESS)
    assert 0.3 < (predictions.label == predictions.predicted).mean() < 0.95


def test_validation_and_test_images_are_reported_apart(
    mixed: list[tuple[str, str, float]], project: Project, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluated()
    written = json.loads((folder / "metrics.json").read_text())
    assert list(written) == ["val", "test", "parameters", "trainable_parameters"]
    for side in ("val", "test"):
        predictions = read_predictions(folder, side)
        assert list(written[side]) == [
            *("accuracy", "accuracy_low", "accuracy_high", "loss", "macro_f1", "macro_f1_low", "macro_f1_high"),
            *("macro_auc", "ece_uncalibrated", "ece"),  # of three classes no top-5 accuracy
        ]
        assert written[side]["accuracy"] == pytest.approx((predictions.label == predictions.predicted).mean())
        assert written[side]["macro_f1"] == pytest.approx(
            metrics.f1_score(predictions.label, predictions.predicted, average="macro")
        )
    assert written["val"] != written["test"]
    compared = json.loads((folder / "summary.json").read_text())
    val, test = written["val"], written["test"]
    assert compared == {
        "grays-near": {"val": {"accuracy": val["accuracy"], "loss": val["loss"]}},
        "grays-near_test": {"accuracy": test["accuracy"]},
    }
    assert list(compared) == sorted(compared, key=lambda key: f"{key}.")  # as `dvc metrics diff` sorts them
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [["grays-near:", "val"], ["grays-near:", "test"]]

    project.params["experiments"]["grays-near"]["train_on_val"] = True
    project.command("evaluate")
    written = json.loads((evaluated() / "metrics.json").read_text())
    assert list(written) == ["test", "parameters", "trainable_parameters"] and written["test"] == test
    assert set(pd.read_parquet(folder / "predictions.parquet").split) == {"test"}
    assert list(json.loads((folder / "summary.json").read_text())) == ["grays-near_test"]


def test_reports_are_what_scikit_learn_says_of_the_predictions(
    mixed: list[tuple[str, str, float]], evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluated()
    predictions = read_predictions(folder)
    truth, predicted, classes = predictions.label, predictions.predicted, list(BRIGHTNESS)
    written = json.loads((folder / "metrics.json").read_text())
    assert (written["parameters"], written["trainable_parameters"]) == (123, 45)
    written = written["test"]
    assert written["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))

    values = np.array([round(255 * value) / 255 for _, _, value in mixed])
    centers = np.array(list(BRIGHTNESS.values()))
    logits = SHARPNESS * (2 * values[:, None] * centers - centers**2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert written["loss"] == pytest.approx(metrics.log_loss(truth, probabilities, labels=classes), rel=1e-4)

    report = metrics.classification_report(truth, predicted, output_dict=True)
    assert json.loads((folder / "classification_report.json").read_text()) == report
    assert (folder / "classification_report.txt").read_text() == metrics.classification_report(
        truth, predicted, digits=4
    )
    table = pd.read_csv(folder / "confusion_matrix.csv")
    assert list(table) == ["actual", "predicted", "count"]
    assert table["count"].sum() == len(mixed)
    assert list(table.actual[:3]) == list(table.predicted[:3]) == classes  # the axes of DVC's plot, in order
    assert (table["count"][3:] > 0).all()
    matrix = table.pivot(index="actual", columns="predicted", values="count").fillna(0)
    assert (matrix.to_numpy() == metrics.confusion_matrix(truth, predicted, labels=classes)).all()
    printed = capsys.readouterr()
    accuracy, low, high, loss = (written[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "loss"))
    last = printed.out.splitlines()[-1]
    assert last == f"grays-near: test accuracy {accuracy:.4f} ({low:.4f} to {high:.4f}), loss {loss:.4f} on 30 images"
    assert printed.err == ""


def test_same_bytes_every_time(mixed: list[tuple[str, str, float]], evaluated: Evaluate) -> None:
    names = {
        "metrics.json", "summary.json", "classification_report.json", "classification_report.txt",
        "confusion_matrix.csv", "predictions.parquet", "confusion_matrix.png", "samples.png", "provenance.json",
        "per_class.csv", "confusions.csv", "slices.csv", "reliability.png", "curves.png", "gallery_worst.png",
        "gallery_uncertain.png",
    }  # fmt: skip
    written = []
    for _ in range(2):
        folder = evaluated()
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0].keys() == names
    assert written[0] == written[1]


def colors(tile: np.ndarray) -> set[str]:
    """What a part of a picture of gray images has besides gray."""
    red, green, blue = (tile[..., channel].astype(int) for channel in range(3))
    found = set()
    if ((red > green + 80) & (red > blue + 80)).sum() > 20:
        found.add("red")
    if ((green > red + 80) & (green > blue + 80)).sum() > 20:
        found.add("green")
    return found


def test_titles_of_samples_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(grid, "save", lambda figure, *_: drawn.append(figure.axes[0].texts[-1]))
    image = np.zeros((8, 8, 1), np.uint8)
    for title in ("3 100%", "an Airedale terrier 100%\nis a Norfolk terrier"):
        grid.draw_grid(tmp_path / "x.png", [grid.Tile(image, title, "green")])
    short, long = (title.get_fontsize() for title in drawn)
    assert short == 14 and 8 <= long < 10


def test_titles_of_samples_tell_right_from_wrong(project: Project, evaluated: Evaluate) -> None:
    rights = [True, False, False, True, True, False, False, True]
    rows = [("ant" if right else "cat", "test", BRIGHTNESS["ant"]) for right in rights]
    write_images(project.root, [*rows, ("bee", "train", 0.4)], list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    with Image.open(evaluated() / "samples.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    halves = np.array_split(pixels, 2)
    tiles = [tile for half in halves for tile in np.array_split(half, 6, axis=1)]
    expected = [{"green"} if right else {"red"} for right in rights] + [set()] * 4
    assert [colors(tile) for tile in tiles] == expected


def test_samples_are_spread_over_all_test_images(project: Project, evaluated: Evaluate) -> None:
    """Files are in order of their class: the first 24 would show but one."""
    rows = [(name, "test", value) for name, value in BRIGHTNESS.items() for _ in range(40)]
    write_images(project.root, rows, list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    with Image.open(evaluated() / "samples.png") as image:
        gray = np.asarray(image.convert("L"))
    for value in BRIGHTNESS.values():  # about 8 tiles of each brightness, 130 × 130 pixels
        assert 6 * 100**2 < (gray == round(255 * value)).sum() < 10 * 150**2


def test_confusion_matrix_picture_opens_and_shows_its_counts(
    project: Project, mixed: list[tuple[str, str, float]], evaluated: Evaluate
) -> None:
    def blue() -> int:
        with Image.open(evaluated() / "confusion_matrix.png") as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return int((pixels[..., 2] > pixels[..., 0] + 60).sum())

    mixed_picture = blue()
    write_images(project.root, [(name, "test", value) for name, value in BRIGHTNESS.items()], list(BRIGHTNESS))
    assert mixed_picture > 1000 and blue() > 1000
    write_images(project.root, [("ant", "test", 0.1)], list(BRIGHTNESS))  # two rows of zeros: no division by zero
    assert blue() > 300


@pytest.mark.parametrize(
    ("rows", "accuracy", "macro_f1", "absent"),
    [
        # nothing is ever called cat
        ([("ant", 0.1), ("bee", 0.4), ("cat", 0.4), ("cat", 0.1)], 0.5, (2 / 3 + 2 / 3 + 0) / 3, ""),
        # no test image is a cat, but one is called so
        ([("ant", 0.1), ("bee", 0.4), ("bee", 0.8)], 2 / 3, (1 + 2 / 3 + 0) / 3, "cat"),
        # no test image is a cat, and none is called so
        ([("ant", 0.1), ("bee", 0.4), ("bee", 0.1)], 2 / 3, (2 / 3 + 2 / 3) / 2, "cat"),
        # one class only, all right
        ([("bee", 0.4)], 1.0, 1.0, "ant, cat"),
        # nothing right at all
        ([("ant", 0.4), ("bee", 0.8), ("cat", 0.1)], 0.0, 0.0, ""),
    ],
    ids=["never predicted", "without images", "neither", "one image", "all wrong"],
)
def test_classes_that_are_missing(
    project: Project,
    evaluated: Evaluate,
    capsys: pytest.CaptureFixture[str],
    rows: list[tuple[str, float]],
    accuracy: float,
    macro_f1: float,
    absent: str,
) -> None:
    write_images(project.root, [(label, "test", value) for label, value in rows], list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    folder = evaluated()
    written = json.loads((folder / "metrics.json").read_text())
    assert next(iter(written)) == "test"  # there are no validation images
    assert written["test"]["accuracy"] == pytest.approx(accuracy)
    assert written["test"]["macro_f1"] == pytest.approx(macro_f1)
    predictions = read_predictions(folder)
    assert written["test"]["macro_f1"] == metrics.f1_score(
        predictions.label, predictions.predicted, average="macro", zero_division=0.0
    )
    table = pd.read_csv(folder / "confusion_matrix.csv")
    assert set(BRIGHTNESS) == set(table.actual) == set(table.predicted)
    report = json.loads((folder / "classification_report.json").read_text())
    assert report["macro avg"]["f1-score"] == pytest.approx(macro_f1)
    assert {label for label, _ in rows} < report.keys()
    text, printed = (folder / "classification_report.txt").read_text(), capsys.readouterr()
    assert printed.err == ""
    if absent:
        assert text.endswith(f"\nno test images: {absent}\n")
        assert printed.out.endswith(f"grays-near: no test images of {absent}\n")
    else:
        assert "no test images" not in text + printed.out


def test_a_class_without_validation_images_is_named(
    project: Project, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = BRIGHTNESS
    tested = [(label, "test", value) for label, value in BRIGHTNESS.items()]
    write_images(project.root, [(first, "val", BRIGHTNESS[first]), *tested], list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    evaluated()
    assert f"grays-near: no val images of {', '.join(others)}\n" in capsys.readouterr().out


def test_of_many_classes_the_most_confused_are_drawn(project: Project, evaluated: Evaluate) -> None:
    """Class n is as bright as n; of the classes from 100 on every second one looks like its neighbor."""
    classes = {f"class {number:03d} with a name of several words": number / 255 for number in range(180)}
    names = list(classes)
    rows = [(name, "test", (n ^ 1 if n >= 100 and n % 4 == 0 else n) / 255) for n, name in enumerate(names)]
    write_images(project.root, rows, names)
    write_model(project.root, classes)
    folder = evaluated()
    table = pd.read_csv(folder / "confusion_matrix.csv")
    assert list(table.actual[:180]) == list(table.predicted[:180]) == names
    assert list(table.actual[180:]) == names[100::4] and list(table.predicted[180:]) == names[101::4]
    assert table["count"].sum() == 180
    with Image.open(folder / "confusion_matrix.png") as image:
        assert image.size == (2200, 2200)


def test_figure_says_which_classes_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure.axes[0]))
    counts = np.diag(np.full(60, 5))
    counts[50, 59] = counts[3, 2] = 7
    counts[4, range(20, 57)] = 1  # these 37 and the 5 others are confused: 42
    names = [f"{number:02d}, of which the name goes on and on" for number in range(60)]
    figures.draw_confusion_matrix(tmp_path / "x.png", csr_array(counts), names, "val")
    assert drawn[0].get_title() == "val images, the 40 of 60 classes that are confused most"
    shown = [label.get_text() for label in drawn[0].get_xticklabels()]
    assert [int(label[:2]) for label in shown] == [2, 3, 4, *range(20, 56), 59]
    assert shown == [label.get_text() for label in drawn[0].get_yticklabels()]
    assert all(len(label) <= 30 for label in shown)
    shares = np.asarray(drawn[0].images[0].get_array())
    assert shares[1, 0] == pytest.approx(7 / 12)  # of all images of the class
    assert shares[2].sum() == pytest.approx((5 + 36) / 42)


@pytest.mark.parametrize(("module", "broken"), [(figures, "draw_confusion_matrix"), (grid, "draw_grid")])
def test_reports_are_written_together_or_not_at_all(
    mixed: list[tuple[str, str, float]], evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch, module: Any, broken: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, broken, fail)
        with pytest.raises(MemoryError):
            evaluated()
    folder = Path("reports/grays-near")
    assert [path.name for path in folder.iterdir()] == ["provenance.json"]
    (folder / "samples.png").mkdir()
    with pytest.raises(IsADirectoryError):
        evaluated()
    assert {path.name for path in folder.iterdir()} == {"provenance.json", "samples.png"}
    (folder / "samples.png").rmdir()
    (folder / "history.csv").write_text("what another stage wrote stays")
    assert len(list(evaluated().iterdir())) == 17


def test_class_names_of_all_kinds(project: Project, evaluated: Evaluate) -> None:
    """Dollars would be a formula, `=` one of a spreadsheet; no font has every script; some signs steer terminals."""
    names = {"$\\frac{$": 0.0, "猫 😀": 0.2, 'a, "b"': 0.4, "5": 0.6, "=1+1": 0.8, "'-\x1b[2J\n\u202e": 1.0}
    write_images(project.root, [(name, "test", value) for name, value in names.items()], list(names))
    write_model(project.root, names)
    folder = evaluated()
    table = pd.read_csv(folder / "confusion_matrix.csv", dtype={"actual": str, "predicted": str})
    correct = table[table.actual == table.predicted]
    assert list(map(unescape_formula, correct.actual)) == list(names)
    assert list(correct.actual)[-2:] == ["'=1+1", "''-\x1b[2J\n\u202e"]
    assert list(correct["count"]) == [1] * len(names)
    assert list(read_predictions(folder).predicted) == list(names)
    assert names.keys() < json.loads((folder / "classification_report.json").read_text()).keys()
    lines = (folder / "classification_report.txt").read_text().split("\n")
    assert all(line.isprintable() for line in lines)
    assert r"'-\x1b[2J\n\u202e" in lines[7]
    assert len({len(line) for line in lines[2:]} - {0}) == 1  # one column below the other


def test_model_and_images_that_do_not_belong_together(project: Project, evaluated: Evaluate) -> None:
    write_images(project.root, [("ant", "train", 0.1), ("bee", "val", 0.4)], list(BRIGHTNESS))
    with pytest.raises(UserError, match=r"models/grays-near/model\.json is not there"):
        evaluated()
    write_model(project.root, BRIGHTNESS)
    with pytest.raises(UserError, match="grays has no test images"):
        evaluated()
    write_images(project.root, [("ant", "test", 0.1)], ["ant", "cat", "bee"])  # the same, in another order
    with pytest.raises(UserError, match="other classes"):
        evaluated()
    write_images(project.root, [("ant", "test", 0.1)], list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS, side=5)
    with pytest.raises(UserError, match="another size"):
        evaluated()
    write_model(project.root, BRIGHTNESS)
    (project.root / "models/grays-near/seed-2.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 trainings, params\.yaml wants seeds = 1"):
        evaluated()
    shutil.rmtree(project.root / "data/packed/grays")
    with pytest.raises(UserError, match="data/packed/grays is not there"):
        evaluated()
    assert not (project.root / "reports/grays-near/metrics.json").exists()


def test_model_of_another_training_than_the_provenance_tells_of(
    project: Project, mixed: list[tuple[str, str, float]], evaluated: Evaluate
) -> None:
    folder, provenance = Path("models/grays-near"), Path("reports/grays-near/provenance.json")
    told = provenance.read_text()
    write_model(project.root, {"ant": 0.8, "bee": 0.4, "cat": 0.1})
    provenance.write_text(told)
    mends = f"run dvc checkout {folder}, or dvc repro train@grays-near"
    with pytest.raises(
        UserError, match=f"^{folder}/model.safetensors is not the file that {provenance} tells of: {mends}"
    ):
        evaluated()
    write_model(project.root, BRIGHTNESS)
    edit(folder / "model.json", '"std": [1.0]', '"std": [2.0]')
    with pytest.raises(UserError, match=f"^{folder}/model.json is not the file"):
        evaluated()
    for damage in ("", "[]", "{}", '{"model": []}'):
        provenance.write_text(damage)
        with pytest.raises(UserError, match=f"^{provenance} is damaged .*dvc repro train@grays-near"):
            evaluated()
    provenance.unlink()
    with pytest.raises(UserError, match=f"^{provenance} is not there: run dvc repro train@grays-near"):
        evaluated()
    assert not list(provenance.parent.iterdir())


def test_model_whose_logits_are_no_numbers(project: Project, evaluated: Evaluate) -> None:
    write_images(project.root, [("cat", "test", 1.0)], list(BRIGHTNESS))
    write_model(project.root, BRIGHTNESS)
    about = project.root / "models/grays-near/model.json"
    about.write_text(about.read_text().replace('"std": [1.0]', '"std": [1e-38]'))  # sums over an image are infinite
    write_provenance(project.root)
    with pytest.raises(UserError, match="loss of models/grays-near on test images is nan"):
        evaluated()
    assert not (project.root / "reports/grays-near/metrics.json").exists()


def test_as_a_process(project: Project, mixed: list[tuple[str, str, float]], evaluated: Evaluate) -> None:
    ran = project.must_run("evaluate", "grays-near")
    assert ran.out.startswith("grays-near: val accuracy 0.")
    assert ran.err == ""
    (project.root / "models/grays-near/model.safetensors").write_bytes(b"half")
    failed_in_one_line(project.run("evaluate", "grays-near"), "models/grays-near/model.safetensors is damaged")
