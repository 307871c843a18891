"""`python -m pipeline.predict`: what it prints, and that it says what `evaluate` said of the same images."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ENVIRONMENT, REPOSITORY, Clone, Project, Ran, class_folders, failed_in_one_line, picture
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from samples import ADOBE_RGB, rgb_profile, samples

from pipeline import evaluate, predict, train
from pipeline.config.networks import Network
from pipeline.evaluation.model import Model
from pipeline.images.decode import ORIENTATION, to_size
from pipeline.networks import Shape, build
from pipeline.prediction import classify, grids, tables
from pipeline.prediction.explain import explainer, last_map, overlay
from pipeline.prediction.pixels import pixels_of, preprocessing
from pipeline.prediction.thresholds import Choice, choose
from pipeline.system.console import run
from pipeline.system.memory import MOST_PIXELS

CLASSES = ["ant", "bee", "cat"]
LIMIT = 300_000  # pixels of an image
Predict = Callable[..., Ran]
PHOTOS = [f"photos/test/{label}/{number:03d}.png" for label in CLASSES for number in range(2)]


def write_odd_images(folder: Path) -> None:
    """Images of one class that need turning, flattening, converting or cropping; none is broken."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    picture(90, 9, 31).save(folder / "turned.jpg", exif=turned, quality=95)
    picture(91, 20, 20, "L").save(folder / "gray.png")
    picture(92, 16, 12, "RGBA").save(folder / "transparent.png")
    picture(93, 41, 7).save(folder / "tall.png")
    picture(94, 3, 50).save(folder / "wide.bmp")
    picture(95, 30, 30).convert("P").save(folder / "palette.gif")
    picture(96, 30, 20).convert("CMYK").save(folder / "print.jpg", quality=95)
    Image.fromarray(np.arange(0, 60000, 100, dtype=np.uint16).reshape(20, 30)).save(folder / "deep.png")
    picture(98, 20, 20).save(folder / "wide gamut.png", icc_profile=rgb_profile(ADOBE_RGB, 2.2))
    picture(99, 24, 20).save(folder / "phone.heic")
    picture(97, 24, 24).save(folder / "mit Leerzeichen, ü 猫 [1] $x$.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one evaluated model; tests must leave its files as they are."""
    project = Project(tmp_path_factory.mktemp("predict"))
    photos = project.root / "photos"
    class_folders(photos / "train", dict.fromkeys(CLASSES, 6))
    class_folders(photos / "test", dict.fromkeys(CLASSES, 2), height=14, width=9)
    write_odd_images(photos / "test/bee")
    project.dataset("photos", "photos", [8, 6], max_pixels=LIMIT)
    project.params["datasets"]["photos"]["pack"] |= {"interpolation": "bicubic", "fit": "pad", "color_profile": "srgb"}
    project.experiment("photos-cnn", "photos", network={"name": "cnn", "convolutions": [6], "hidden": [8]}, epochs=12)
    for stage in ("check", "split", "pack"):
        project.must_run(stage, "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setattr(sys, "argv", ["", "photos-cnn"])
        train.main()
        evaluate.main("photos-cnn")
    return project


@pytest.fixture
def asked(trained: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Run predict in this process, in the project's folder; an exception not meant for people comes through."""
    monkeypatch.chdir(trained.root)

    def ask(*arguments: str, model: str = "models/photos-cnn") -> Ran:
        monkeypatch.setattr(sys, "argv", ["predict", "--model", model, *arguments])
        with pytest.raises(SystemExit) as raised:
            run(predict.main)
        return Ran(raised.value.code if isinstance(raised.value.code, int) else 99, *capsys.readouterr())

    return ask


def names(ran: Ran) -> list[str]:
    """The files that have a line on stdout."""
    return [line.rpartition(": ")[0] for line in ran.out.splitlines()]


def test_says_of_an_image_what_evaluate_said(trained: Project, asked: Predict) -> None:
    ran = asked("--json", "photos/test")
    assert ran.status == 0, ran.err
    evaluated = pd.read_parquet(trained.root / "reports/photos-cnn/predictions.parquet")
    evaluated = evaluated[evaluated.split == "test"]
    by_path = {f"photos/{row.path}": row for row in evaluated.itertuples()}
    answers = json.loads(ran.out)
    assert [answer["path"] for answer in answers] == sorted(by_path)
    assert len(answers) == 6 + 11
    for answer in answers:
        (best,) = answer["predictions"]
        row = by_path[answer["path"]]
        assert best["class"] == row.predicted, answer
        assert best["probability"] == pytest.approx(row.probability, abs=1e-5), answer
    # the model does tell these images apart, so that equal answers mean equal pixels
    assert evaluated.probability.round(4).nunique() > 10


def test_turned_image_is_seen_as_a_person_sees_it(asked: Predict, tmp_path: Path) -> None:
    pixels = picture(1, 30, 30)
    turned = Image.Exif()
    turned[ORIENTATION] = 3
    pixels.save(tmp_path / "plain.png")
    pixels.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=turned)
    pixels.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "upside-down.png")
    lines = asked("--top", "3", str(tmp_path)).out.splitlines()
    plain, same, other = (line.rpartition(".png: ")[2] for line in lines)
    assert plain == same
    assert plain != other


def test_one_line_for_each_file(asked: Predict) -> None:
    ran = asked("photos/test/ant/001.png", "photos/test/ant/000.png", "photos/train/cat")
    assert ran.status == 0
    assert ran.err == ""
    cats = [f"photos/train/cat/{number:03d}.png" for number in range(6)]
    assert names(ran) == ["photos/test/ant/001.png", "photos/test/ant/000.png", *cats]
    for line in ran.out.splitlines():
        label, probability = line.rpartition(": ")[2].split()
        assert label in CLASSES
        assert 1 / 3 < float(probability) <= 1


def test_classes_in_order_of_their_probability(asked: Predict) -> None:
    (best,) = json.loads(asked("--json", "photos/test/ant/000.png").out)
    for top in (2, 3, 100):
        (answer,) = json.loads(asked("--json", "--top", str(top), "photos/test/ant/000.png").out)
        predictions = answer["predictions"]
        assert len(predictions) == min(top, 3)
        assert predictions[0] == best["predictions"][0]
        probabilities = [each["probability"] for each in predictions]
        assert probabilities == sorted(probabilities, reverse=True)
    assert {each["class"] for each in predictions} == set(CLASSES)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    (line,) = asked("--top", "3", "photos/test/ant/000.png").out.splitlines()
    expected = ", ".join(f"{each['class']} {each['probability']:.4f}" for each in predictions)
    assert line == f"photos/test/ant/000.png: {expected}"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/train/*/000.png", [f"photos/train/{label}/000.png" for label in CLASSES]),
        ("photos/train/[ab]*", [f"photos/train/{label}/{n:03d}.png" for label in CLASSES[:2] for n in range(6)]),
        ("photos/train/**", [f"photos/train/{label}/{n:03d}.png" for label in CLASSES for n in range(6)]),
        ("photos/test/bee/00?.png", ["photos/test/bee/000.png", "photos/test/bee/001.png"]),
        ("photos/test/bee/mit*", ["photos/test/bee/mit Leerzeichen, ü 猫 [1] $x$.png"]),
        # brackets and all: a file of that very name comes first
        ("photos/test/bee/mit Leerzeichen, ü 猫 [1] $x$.png", ["photos/test/bee/mit Leerzeichen, ü 猫 [1] $x$.png"]),
    ],
)
def test_patterns(asked: Predict, pattern: str, found: list[str]) -> None:
    ran = asked(pattern)
    assert ran.status == 0
    assert names(ran) == found


def test_hidden_files_of_a_folder_are_left_out(asked: Predict, tmp_path: Path) -> None:
    (tmp_path / "visible/.hidden").mkdir(parents=True)
    for place in ("visible/.a.png", "visible/.hidden/b.png"):
        picture(1).save(tmp_path / place)
    failed_in_one_line(asked(str(tmp_path / "visible")), "no files in", "visible")
    picture(1).save(tmp_path / "visible/c.png")
    assert names(asked(str(tmp_path / "visible"))) == [str(tmp_path / "visible/c.png")]
    assert asked(str(tmp_path / "visible/.a.png")).status == 0  # named, it is meant


def test_a_folder_with_links_and_clutter(asked: Predict, tmp_path: Path) -> None:
    """Read as the images of a data set are, but that here nothing has to be tracked behind a link."""
    folder, other = tmp_path / "new [2024]", tmp_path / "other"
    class_folders(tmp_path, {folder.name: 3, "other/deep": 5})
    (folder / "more").symlink_to("../other")
    (other / "deep/around").symlink_to(folder)
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "pipe").symlink_to("/dev/zero")
    (folder / "gone").symlink_to("nowhere")
    linked = [f"{folder}/more/deep/{number:03d}.png" for number in range(5)]
    own = [f"{folder}/{number:03d}.png" for number in range(3)]
    ran = asked(str(folder))
    assert (ran.status, names(ran)) == (0, [*own, *linked])
    (line,) = ran.err.splitlines()
    assert line.startswith("left out: ") and len(line.split(", ")) == 5
    for name in (".DS_Store (hidden)", "more/deep/around (a link to a folder around it)", "Thumbs.db (no image)",
                 "pipe (not a file)", "gone (No such file or directory)"):  # fmt: skip
        assert f"{folder}/{name}" in line
    assert len(json.loads(asked("--json", str(folder)).out)) == 8

    (tmp_path / "new 2").mkdir()  # what the brackets would stand for in a pattern
    shutil.copy(own[0], tmp_path / "new 2/other.png")
    for pattern in ("*.png", "*"):
        ran = asked(f"{folder}/{pattern}")
        assert ran.status == 0
        assert names(ran)[:3] == own
    assert names(asked(f"{tmp_path}/new [1-3]/*")) == [f"{tmp_path}/new 2/other.png"]
    assert asked(f"{folder}/Thumbs.db").status == 1  # named, it is meant

    for name in own:
        Path(name).unlink()
    (folder / "more").unlink()
    failed_in_one_line(asked(str(folder)), "no images in", "new [2024]")
    (folder / "lost.png").symlink_to("nowhere")  # an image is missing
    ran = asked(str(folder))
    assert ran.status == 1 and "lost.png: No such file" in ran.err


def test_a_very_deep_folder(asked: Predict, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "z.png")
    with chdir(tmp_path):
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        picture(1).save("a.png")
    try:
        ran, refused = asked(str(tmp_path)), asked(f"{tmp_path}/**")
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # pytest can't
    assert ran.status == 0 and names(ran) == [f"{tmp_path}/{'d/' * 1500}a.png", f"{tmp_path}/z.png"]
    failed_in_one_line(refused, f"'{tmp_path}/**': folders are too deep for a pattern; name the folder instead")


def test_what_can_not_be_read_is_told_and_the_rest_goes_on(asked: Predict, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "zoo.png").write_bytes(whole)
    ran = asked(str(tmp_path), str(tmp_path / "missing.png"), str(tmp_path / "*.nothing"))
    assert ran.status == 1
    assert names(ran) == [str(tmp_path / "good.png"), str(tmp_path / "zoo.png")]
    told = ran.err.splitlines()
    assert len(told) == 5
    for name, words in {
        "half.png": "truncated",
        "empty.jpg": "empty_file",
        "notes.txt": "left out: ",
        "missing.png": "No such file or directory",
        "*.nothing": "no files",
    }.items():
        (line,) = [line for line in told if name in line]
        assert words in line
    answers = json.loads(asked("--json", str(tmp_path), str(tmp_path / "missing.png")).out)
    assert [("error" in answer, "predictions" in answer) for answer in answers] == [
        *[(True, False), (False, True), (True, False), (False, True), (True, False)]
    ]
    only_bad = asked("--json", "--grid", str(tmp_path / "grid.png"), str(tmp_path / "notes.txt"))
    assert only_bad.status == 1
    assert len(json.loads(only_bad.out)) == 1


def test_names_that_would_steer_a_terminal(asked: Predict, tmp_path: Path) -> None:
    odd = ["\x1b[2J.png", "a\r\nb.png", "\u202egnp.png", "\x9b2J.png", "\udcff.png", "\U000e0001猫 é.png"]
    for name in odd:
        picture(1).save(tmp_path / name)
    ran = asked("--json", str(tmp_path))
    assert ran.out.replace("\n", "").isprintable() and "猫 é" in ran.out
    shown = [name.replace("\udcff", "\\xff") for name in odd]  # strict parsers of JSON take no lone surrogate
    assert sorted(answer["path"].rpartition("/")[2] for answer in json.loads(ran.out)) == sorted(shown)
    (tmp_path / odd[0]).write_bytes(b"")
    ran = asked(str(tmp_path))
    assert all(line.isprintable() for line in (ran.out + ran.err).split("\n"))
    assert ran.err.endswith("/\\x1b[2J.png: empty_file: 0 bytes\n") and len(ran.out.split("\n")) == len(odd)


def test_more_than_one_batch(asked: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = asked("photos")
    monkeypatch.setattr(classify, "BATCH", 4)
    in_batches = asked("photos")
    assert len(at_once.out.splitlines()) == 35
    assert names(in_batches) == names(at_once)
    for line, other in zip(at_once.out.splitlines(), in_batches.out.splitlines(), strict=True):
        assert float(line.split()[-1]) == pytest.approx(float(other.split()[-1]), abs=2e-4)


def test_grid(asked: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(14):
        Image.new("RGB", (20, 20), (10 * number, 255 - 10 * number, 200)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "99.jpg").write_text("no image")
    grid = tmp_path / "out/grid.png"

    def seen() -> list[bool]:
        with Image.open(grid) as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("RGB")).astype(int)
        found = []
        for number in range(14):
            away = np.abs(pixels - [10 * number, 255 - 10 * number, 200]).max(-1)
            found.append(bool((away == 0).sum() > 100 * 100))
        return found

    ran = asked("--grid", str(grid), str(tmp_path))
    assert ran.status == 1
    assert len(ran.out.splitlines()) == 14
    assert seen() == [True] * 14
    monkeypatch.setattr(grids, "MOST", 9)
    ran = asked("--grid", str(grid), str(tmp_path / "0*.png"), str(tmp_path / "1*.png"))
    assert ran.status == 0
    assert "only the first 9 images" in ran.err
    assert seen() == [True] * 9 + [False] * 5
    assert os.listdir(grid.parent) == ["grid.png"]
    failed_in_one_line(asked("--grid", "models", "photos/test/ant"), "expected a name that ends in .png")


def test_no_file_of_a_person_is_overwritten(asked: Predict, tmp_path: Path) -> None:
    """As by `--grid *.png`, where the shell makes the first photo the name of the grid."""
    photo, listed = tmp_path / "photo.png", tmp_path / "list.csv"
    shutil.copy(PHOTOS[0], photo)
    listed.write_text(PHOTOS[1])
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.png").mkdir()
    before = photo.read_bytes()
    for option in ("--grid", "--explain"):
        failed_in_one_line(asked(option, str(photo), PHOTOS[0]), f"{option} {photo}: is there already", "was not drawn")
        failed_in_one_line(asked(option, str(tmp_path / "folder.png"), PHOTOS[0]), "folder.png: is there already")
        for name in ("", "grid.jpg"):
            failed_in_one_line(asked(option, name, PHOTOS[0]), f"{option} ", "expected a name that ends in .png")
    both = str(tmp_path / "both.png")
    failed_in_one_line(asked("--grid", both, "--explain", both, PHOTOS[0]), "both name")
    failed_in_one_line(asked("--files-from", str(listed), "--output", str(listed)), "is what is to be read")
    failed_in_one_line(asked("--output", str(tmp_path / "pipe.csv"), PHOTOS[0]), "pipe.csv: File exists")
    assert photo.read_bytes() == before and listed.read_text() == PHOTOS[1] and (tmp_path / "pipe.csv").is_fifo()
    assert {file.name for file in tmp_path.iterdir()} == {"photo.png", "list.csv", "pipe.csv", "folder.png"}


def test_a_folder_that_may_not_be_read_stops_no_other(
    asked: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def refusing(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    (tmp_path / "closed").mkdir()
    shutil.copy(PHOTOS[0], tmp_path)
    monkeypatch.setattr(Path, "iterdir", refusing)
    ran = asked(str(tmp_path))
    assert (ran.status, len(names(ran))) == (0, 1) and "closed (Permission denied)" in ran.err
    ran = asked(PHOTOS[0], "x" * 300)
    assert (ran.status, names(ran)) == (1, PHOTOS[:1]) and "File name too long" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", "0", "photos"], ["--top 0: expected 1 or more"]),
        (["--top", "-1", "photos"], ["--top -1"]),
        (["nothing/*.png"], ["no files in 'nothing/*.png'"]),
        ([""], ["no files in ''"]),  # an unset variable is not the current folder
    ],
)
def test_mistakes_in_the_command(asked: Predict, arguments: list[str], words: list[str]) -> None:
    ran = asked(*arguments)
    failed_in_one_line(ran, *words)
    assert ran.out == ""


def seen(file: Path, model: Path) -> np.ndarray:
    """The pixels of a file as a model takes them."""
    pixels = pixels_of(file.read_bytes(), file.name, preprocessing(Model(model)))
    assert isinstance(pixels, np.ndarray)
    return pixels


def test_a_model_of_before_there_was_a_choice_scales_bilinearly_and_crops(trained: Project, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models/photos-cnn", tmp_path / "model")
    file = trained.root / "photos/train/ant/000.png"
    with Image.open(file) as image:
        bicubic, bilinear = to_size(image, 8, 6, "bicubic", "pad"), to_size(image, 8, 6, "bilinear", "crop")
    assert np.array_equal(seen(file, tmp_path / "model"), bicubic)
    about = json.loads((tmp_path / "model/model.json").read_text())
    del about["preprocessing"]["interpolation"], about["preprocessing"]["fit"], about["preprocessing"]["max_pixels"]
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    assert np.array_equal(seen(file, tmp_path / "model"), bilinear)
    assert preprocessing(Model(tmp_path / "model")).max_pixels == MOST_PIXELS


def test_photos_are_as_large_as_the_data_set_allows(asked: Predict, tmp_path: Path) -> None:
    for name, height in (("largest", 100), ("larger", 101)):
        picture(1, height, LIMIT // 100).save(tmp_path / f"{name}.png")
    ran = asked(str(tmp_path))
    assert (ran.status, names(ran)) == (1, [str(tmp_path / "largest.png")])
    size, limit = f"{LIMIT // 100}×101 pixels", f"check.max_pixels = {LIMIT} allows"
    assert ran.err == f"{tmp_path / 'larger.png'}: too_large: {size}, more than {limit}\n"


def test_model_that_is_missing(asked: Predict) -> None:
    failed_in_one_line(asked("photos", model="models/other"), "models/other/model.json is not there", "dvc repro")
    failed_in_one_line(asked("photos", model="photos/test/ant/000.png"), "expected a folder models/EXPERIMENT")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is not there"),
        (lambda model: (model / "model.json").unlink(), "holds no model.json: expected a folder models/"),
        (lambda model: cut(model / "model.safetensors"), "model.safetensors is damaged"),
        (lambda model: cut(model / "model.json"), "model.json is damaged"),
        (lambda model: (model / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
        (lambda model: (model / "model.json").write_bytes(b"\xff\xfe\x00"), "model.json is damaged"),
        (lambda model: (model / "model.json").write_text("[]"), "model.json is damaged"),
        (lambda model: (model / "model.json").write_text('{"classes": []}'), "model.json is damaged"),
        (
            lambda model: (model / "model.json").write_text(
                (model / "model.json").read_text().replace('"convolutions": [\n      6', '"convolutions": [\n      5')
            ),
            "model.safetensors is damaged",
        ),
        (
            lambda model: (model / "model.json").write_text(
                (model / "model.json").read_text().replace('"bicubic"', '"cubic"')
            ),
            "interpolation = 'cubic'; expected bilinear or bicubic",
        ),
        (
            lambda model: (model / "model.json").write_text(
                (model / "model.json").read_text().replace('"pad"', '"fill"')
            ),
            "fit = 'fill'; expected crop or pad or stretch",
        ),
        (
            lambda model: (model / "model.json").write_text(
                (model / "model.json").read_text().replace(f'"max_pixels": {LIMIT}', '"max_pixels": "all"')
            ),
            "max_pixels = 'all'; expected a whole number above 0",
        ),
    ],
    ids=[
        "no weights", "no json", "half weights", "half json", "empty", "binary", "list", "no keys", "other network",
        "interpolation", "fit", "limit",
    ],
)  # fmt: skip
def test_half_a_model(
    trained: Project, asked: Predict, tmp_path: Path, break_: Callable[[Path], None], words: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.root / "models/photos-cnn", model)
    assert asked("photos/test/ant", model=str(model)).status == 0
    break_(model)
    ran = asked("photos/test/ant", model=str(model))
    failed_in_one_line(ran, str(model), words)
    assert ran.out == ""
    assert len(ran.err) < 600


def test_an_image_whose_logits_are_no_numbers(trained: Project, asked: Predict, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.root / "models/photos-cnn", model)
    about = json.loads((model / "model.json").read_text())
    about["preprocessing"] |= {"mean": [0.0] * 3, "std": [1e-40] * 3}  # black stays 0, anything else overflows
    (model / "model.json").write_text(json.dumps(about))
    for name, color in (("black", 0), ("white", 255)):
        Image.new("RGB", (6, 8), (color,) * 3).save(tmp_path / f"{name}.png")
    black, white = str(tmp_path / "black.png"), str(tmp_path / "white.png")
    ran = asked(black, white, model=str(model))
    assert ran.status == 1
    assert names(ran) == [black] and "nan" not in ran.out
    assert ran.err == f"{white}: the network's logits of it are no finite numbers\n"
    answers = json.loads(asked("--json", "--grid", str(tmp_path / "grid.png"), black, white, model=str(model)).out)
    assert ["error" in answer for answer in answers] == [False, True]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.predict", "--model", "models/photos-cnn", *arguments]


def test_name_that_is_not_utf_8_and_a_reader_who_leaves(trained: Project, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "first.png")
    (tmp_path / "\x1b[2J\n\x9b.png").write_bytes((tmp_path / "first.png").read_bytes())
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_bytes((tmp_path / "first.png").read_bytes())
    environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"}
    arguments = ["--grid", str(tmp_path / "grid.png"), str(tmp_path)]
    done = subprocess.run(command(*arguments), cwd=trained.root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = [line.rpartition("/")[2].partition(": ")[0] for line in done.stdout.split("\n")[:-1]]
    assert told == [r"\x1b[2J\n\x9b.png", "first.png", r"\xff.png"]

    # strict parsers take no half of a pair of surrogates; a terminal's encoding is not that of JSON
    environment["PYTHONIOENCODING"] = "ascii"
    picture(2).save(tmp_path / "猫 😀.png")
    printed = subprocess.check_output(command("--json", str(tmp_path)), cwd=trained.root, env=environment)
    answers = json.loads(printed.decode("utf-8"))
    shown = [answer["path"].rpartition("/")[2] for answer in answers]
    assert shown == ["\x1b[2J\n\x9b.png", "first.png", "grid.png", "猫 😀.png", "\\xff.png"]
    assert json.dumps(answers, ensure_ascii=False).encode("utf-8")

    # nothing reads: the first line that leaves the buffer meets a closed pipe, as after `| head -1`
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        command("photos"), cwd=trained.root, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    _, complaints = process.communicate(timeout=120)
    assert complaints == ""
    assert process.returncode == 1


def test_ctrl_c(trained: Project, tmp_path: Path) -> None:
    names = ["missing.png", *["photos/test/ant/000.png"] * 200_000]
    process = subprocess.Popen(
        command("--output", str(tmp_path / "out/answers.csv"), "-"),
        cwd=trained.root, env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stderr
    process.stdin.write("\n".join(names))
    process.stdin.close()
    assert process.stderr.readline() == "missing.png: No such file or directory\n"  # it is at work
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert process.wait(120) == 130
    assert "Traceback" not in told
    assert told.startswith("interrupted")
    assert os.listdir(tmp_path / "out") == []


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(encoding="utf-8", newline="")))


def test_tables_of_answers(trained: Project, asked: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS", 4)  # of a row group: there are several
    folder = tmp_path / "=1+1"
    class_folders(folder, {"@bee": 5})
    (folder / "empty.png").write_bytes(b"")
    printed = json.loads(asked("--json", "--top", "2", str(folder)).out)
    for suffix in ("csv", "json", "parquet"):
        ran = asked("--top", "2", "--output", str(tmp_path / f"new folder/answers.{suffix}"), str(folder))
        assert (ran.status, ran.err) == (1, f"{folder}/empty.png: empty_file: 0 bytes\n")
        assert ran.out == f"{tmp_path}/new folder/answers.{suffix}: 6 rows, 1 of files that can't be read\n"
    out = tmp_path / "new folder"
    assert sorted(os.listdir(out)) == ["answers.csv", "answers.json", "answers.parquet"]
    assert json.loads((out / "answers.json").read_text()) == printed
    table = pd.read_parquet(out / "answers.parquet")
    names = ["path", "predicted", "probability", "class_2", "probability_2", "error"]
    assert table.columns.tolist() == names and pq.ParquetFile(out / "answers.parquet").num_row_groups == 2
    rows = rows_of(out / "answers.csv")
    assert list(rows[0]) == names
    for item, row, (_, other) in zip(printed, rows, table.iterrows(), strict=True):
        assert item["path"] == row["path"] == other.path
        if "error" in item:
            assert item["error"] == row["error"] == other.error and row["predicted"] == ""
            continue
        best, second = item["predictions"]
        assert best["class"] == row["predicted"] == other.predicted and row["error"] == ""
        assert best["probability"] == float(row["probability"]) == other.probability
        assert second["class"] == row["class_2"] == other.class_2 and pd.isna(other.error)

    monkeypatch.chdir(tmp_path)  # where names begin like formulas
    asked("--output", "formulas.csv", "=1+1/@bee", model=str(trained.root / "models/photos-cnn"))
    assert [row["path"] for row in rows_of(Path("formulas.csv"))] == [f"'=1+1/@bee/{n:03d}.png" for n in range(5)]


def test_where_no_table_can_be_written(asked: Predict, tmp_path: Path) -> None:
    for name in ("answers.xlsx", "answers", ".csv"):
        failed_in_one_line(asked("--output", str(tmp_path / name), *PHOTOS), name, ".csv, .json, .parquet")
    (tmp_path / "folder.csv").mkdir()
    failed_in_one_line(asked("--output", str(tmp_path / "folder.csv"), *PHOTOS), "folder.csv: is a folder")
    failed_in_one_line(asked("--output", f"{PHOTOS[0]}/answers.csv", *PHOTOS), "000.png is no folder")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/README").write_text("no image")
    failed_in_one_line(asked("--output", str(tmp_path / "none.csv"), str(tmp_path / "notes")), "no images in")
    assert not (tmp_path / "none.csv").exists()


def test_lists_of_files(asked: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    expected = [PHOTOS[3], PHOTOS[0], PHOTOS[3], *PHOTOS[:2]]  # what is named twice is answered twice
    lines = [PHOTOS[3], "", PHOTOS[0], PHOTOS[3], "photos/test/ant"]
    listed = tmp_path / "list.txt"
    for content in ("\n".join(lines), "\ufeff" + "\r\n".join(lines), "\0".join(lines)):
        listed.write_text(content, newline="")
        ran = asked("--files-from", str(listed))
        assert (ran.status, names(ran), ran.err) == (0, expected, "")
        typed(content.encode())
        assert names(asked("-")) == expected
    assert names(asked("--files-from", str(listed), PHOTOS[5])) == [PHOTOS[5], *expected]
    at_once = json.loads(asked("--json", "--files-from", str(listed)).out)
    assert [answer["path"] for answer in at_once] == expected and at_once[0] == at_once[2]

    listed.write_text("\r\n".join(lines), encoding="utf-16", newline="")  # as PowerShell writes it
    assert names(asked("--files-from", str(listed))) == expected

    (tmp_path / "a b\nc.png").write_bytes(Path(PHOTOS[0]).read_bytes())
    typed(os.fsencode(f"{tmp_path}/a b\nc.png\0"))
    assert names(asked("-")) == [f"{tmp_path}/a b\\nc.png"]

    shutil.copytree("photos/test/ant", "P1")  # as the first bytes of a portable bitmap
    typed(b"P1\n")
    assert len(names(asked("-"))) == 2

    listed.write_text(f"{PHOTOS[0]}\nmissing.png\n{'x' * 300}\n*.png\n{PHOTOS[1]}")
    ran = asked("--files-from", str(listed))
    assert (ran.status, names(ran)) == (1, PHOTOS[:2])
    assert [
        "missing.png: No such file" in ran.err,
        "x: File name too long" in ran.err,
        "*.png: No such" in ran.err,
    ] == [*[True] * 3]


def test_lists_that_are_none(asked: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n\r\n")))
    failed_in_one_line(asked("-"), "no files in standard input")
    failed_in_one_line(
        asked("--files-from", str(tmp_path / "missing.txt")), "missing.txt: No such file", "one path a line"
    )
    failed_in_one_line(asked("--files-from", str(tmp_path)), "Is a directory")
    failed_in_one_line(asked("--files-from", PHOTOS[0]), f"{PHOTOS[0]}: is an image")
    (tmp_path / "empty.txt").touch()
    failed_in_one_line(asked("--files-from", str(tmp_path / "empty.txt")), "no files in", "empty.txt")
    ran = asked("--files-from", str(tmp_path / "empty.txt"), PHOTOS[0])
    assert (ran.status, names(ran)) == (1, PHOTOS[:1]) and "empty.txt': no files" in ran.err
    monkeypatch.setattr(sys, "argv", ["predict", "--model", "models/photos-cnn"])
    with pytest.raises(SystemExit, match="2"):
        predict.main()


def test_what_is_no_regular_file_is_never_waited_for(asked: Predict, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    ran = asked(str(tmp_path / "pipe.png"), PHOTOS[0])
    assert (ran.status, names(ran)) == (1, PHOTOS[:1])
    assert ran.err == f"{tmp_path}/pipe.png: not a regular file\n"


def test_every_kind_of_image_and_of_damage(asked: Predict, tmp_path: Path) -> None:
    for number, (kind, content) in enumerate(samples().items()):
        (tmp_path / f"{number:02d} {kind}.{kind.split()[-1] if ' of ' not in kind else 'tif'}").write_bytes(content)
    whole = asked(str(tmp_path))
    assert (whole.status, len(names(whole))) == (0, len(samples())), whole.err
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    cut_off = asked(str(tmp_path))
    assert cut_off.status == 1 and "Traceback" not in cut_off.err
    assert len(cut_off.err.splitlines()) + len(names(cut_off)) == len(samples())
    assert cut_off.err.count(": truncated: ") > len(samples()) / 2


def test_unsure_below_a_threshold(asked: Predict, tmp_path: Path) -> None:
    answers = json.loads(asked("--json", "photos").out)
    probabilities = sorted(answer["predictions"][0]["probability"] for answer in answers)
    middle = probabilities[len(probabilities) // 2]
    ran = asked("--threshold", f"{middle:.6f}", "photos")
    told = {line.rpartition(": ")[0]: line.rpartition(": ")[2] for line in ran.out.splitlines()}
    for answer in answers:
        best = answer["predictions"][0]
        said = f"{best['class']} {best['probability']:.4f}"
        if abs(best["probability"] - middle) > 1e-5:
            assert told[answer["path"]] == (said if best["probability"] > middle else f"unsure ({said})")
    asked("--threshold", "1", "--output", str(tmp_path / "a.csv"), "photos")
    rows = rows_of(tmp_path / "a.csv")
    assert list(rows[0]) == ["path", "predicted", "probability", "best", "error"]
    assert {row["predicted"] for row in rows} == {"unsure"}
    assert [row["best"] for row in rows] == [answer["predictions"][0]["class"] for answer in answers]
    first = json.loads(asked("--json", "--threshold", "1", PHOTOS[0]).out)[0]
    assert first["predicted"] == "unsure" and first["predictions"][0]["class"] in CLASSES
    for option in ("--threshold", "--precision"):
        for value in ("0", "1.1", "-1", "nan"):
            failed_in_one_line(asked(option, value, "photos"), f"{option} {value}: expected a number above 0")


def test_a_threshold_for_a_precision(trained: Project, asked: Predict, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.root / "models/photos-cnn", model)
    about = json.loads((model / "model.json").read_text()) | {"experiment": "photos-val"}
    (model / "model.json").write_text(json.dumps(about))
    failed_in_one_line(
        asked("--precision", "0.9", "photos", model=str(model)), "reports/photos-val/predictions.parquet"
    )
    table = pd.read_parquet(trained.root / "reports/photos-cnn/predictions.parquet")
    table = table[table.split == "test"].assign(label=lambda each: each.predicted)
    least = table.probability.nsmallest(2).tolist()
    table.loc[table.probability.idxmin(), "label"] = "none of them"
    reports = trained.root / "reports/photos-val"
    reports.mkdir()
    try:
        table.to_parquet(reports / "predictions.parquet")
        ran = asked("--precision", "0.9", "photos", model=str(model))
        failed_in_one_line(ran, "predictions.parquet has no validation images", "give --threshold")
        table = table.assign(split="val")
        table.to_parquet(reports / "predictions.parquet")
        ran = asked("--precision", "1", "photos/test", model=str(model))
        assert ran.status == 0
        assert ran.err.startswith(f"threshold {sum(least) / 2:.4f}: of 17 val images it keeps 16 (94.1 %)")
        assert "of which 100.00 % are right (95 % interval 80.64 % to 100.00 %)" in ran.err
        assert len([line for line in ran.out.splitlines() if ": unsure (" in line]) == 1
        table.assign(label="none of them").to_parquet(reports / "predictions.parquet")
        ran = asked("--precision", "0.5", "photos/test", model=str(model))
        failed_in_one_line(ran, "--precision 0.5: no threshold reaches it on the 17 val images of photos-val")
    finally:
        shutil.rmtree(reports)


@pytest.mark.parametrize(
    ("precision", "threshold", "kept", "correct"),
    [(1, 0.85, 2, 2), (0.75, 0.5, 4, 3), (0.7, 0.5, 4, 3), (0.66, 0.2, 6, 4), (0.1, 0.2, 6, 4)],
)
def test_the_threshold_that_keeps_most(precision: float, threshold: float, kept: int, correct: int) -> None:
    probability = np.array([0.4, 0.95, 0.8, 0.9, 0.6, 0.4])
    right = np.array([True, True, False, True, True, False])
    choice = choose(probability, right, precision)
    assert isinstance(choice, Choice)
    assert (choice.kept, choice.correct, choice.images) == (kept, correct, 6)
    assert choice.threshold == pytest.approx(threshold)


def test_the_score_of_folders(trained: Project, asked: Predict, tmp_path: Path) -> None:
    ran = asked("--score", "--output", str(tmp_path / "a.csv"), "photos/test")
    rows = rows_of(tmp_path / "a.csv")
    assert ran.status == 0 and ran.err == ""
    assert [row["label"] for row in rows] == [row["path"].split("/")[2] for row in rows]
    report = (trained.root / "reports/photos-cnn/classification_report.txt").read_text()
    assert ran.out.partition("\n")[2].split() == report.split()  # what evaluate says of the same images

    shutil.copytree("photos/test", tmp_path / "more/test")
    (tmp_path / "more/test/cat/2020").mkdir()
    shutil.move(tmp_path / "more/test/cat/000.png", tmp_path / "more/test/cat/2020/")
    shutil.copytree("photos/test/ant", tmp_path / "more/test/bird")
    ran = asked("--score", str(tmp_path / "more"))
    assert ran.status == 1
    assert ran.out.split() == report.split()
    assert ran.err == (
        "not scored, as no folder above them, up to the given one, has the name of a class:"
        f" files in '{tmp_path}/more/test/bird' (2)\n"
    )
    failed_in_one_line(
        asked("--score", str(tmp_path / "more/test/bird")), "no image lies in a folder of a class", "ant, bee"
    )
    ran = asked("--score", "--threshold", "1", "photos/test")
    assert (ran.status, ran.out) == (0, "17 of 17 images are unsure and not in the report\n")


@pytest.mark.parametrize(
    ("where", "given", "labels"),
    [
        (".", ["bee/photos"], ["ant", "ant", "", "cat"]),
        ("bee", ["{here}/photos/"], ["ant", "ant", "", "cat"]),
        ("bee/photos", ["."], ["ant", "ant", "", "cat"]),
        ("bee", ["photos/test", "photos/ant", "photos/bird"], ["cat", "ant", "ant", ""]),
        ("bee", ["photos/test/cat"], ["cat"]),
        ("bee/photos/ant", ["."], ["ant", "ant"]),
        ("bee", ["photos/ant/2020"], [""]),
        (".", ["bee/photos/*/*.png"], ["ant", ""]),
        ("bee", ["photos/**/*.png"], ["ant", "ant", "", "cat"]),
        ("bee/photos/ant", ["*.png"], ["ant"]),
        ("bee/photos/bird", ["3.png", "../ant/2020/2.png"], ["", "ant"]),
        (".", ["--files-from", "{here}/list"], ["", "ant", "cat"]),
    ],
)
def test_the_score_looks_at_no_folder_above_the_given_one(
    trained: Project, asked: Predict, tmp_path: Path, where: str, given: list[str], labels: list[str]
) -> None:
    for place in ("ant/1.png", "ant/2020/2.png", "bird/3.png", "test/cat/4.png"):
        file = tmp_path / "bee/photos" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(file)
    (tmp_path / "list").write_text(f"{tmp_path}/bee/photos/bird/3.png\nbee/photos/ant/2020/2.png\nbee/photos/test\n")
    with chdir(tmp_path / where):
        given = [each.format(here=Path.cwd()) for each in given]
        ran = asked("--score", "--output", f"{tmp_path}/a.csv", *given, model=str(trained.root / "models/photos-cnn"))
    assert [row["label"] for row in rows_of(tmp_path / "a.csv")] == labels
    assert ("not scored" in ran.err or "no image lies in" in ran.err) == ("" in labels)


def test_a_model_with_a_class_unsure(trained: Project, asked: Predict, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models/photos-cnn", tmp_path / "model")
    file = tmp_path / "model/model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"classes": ["ant", "unsure", "cat"]}))
    failed_in_one_line(
        asked("--threshold", "0.5", "photos", model=str(tmp_path / "model")), "a class 'unsure' of its own"
    )
    shutil.copytree("photos/test/bee", tmp_path / "unsure")
    assert " unsure " in asked("--score", str(tmp_path / "unsure"), model=str(tmp_path / "model")).out
    assert "not in the report" not in asked("--score", str(tmp_path / "unsure"), model=str(tmp_path / "model")).out


def test_a_model_with_another_ones_reports(trained: Project, asked: Predict, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.root / "models/photos-cnn", model)
    weights = load_file(model / "model.safetensors")
    save_file({name: 0.9 * values for name, values in weights.items()}, model / "model.safetensors")
    ran = asked("--precision", "0.5", "photos/test", model=str(model))
    failed_in_one_line(ran, f"reports/photos-cnn is of other weights than {model}", "dvc repro evaluate@photos-cnn")


def test_where_the_network_looks(trained: Project, asked: Predict, tmp_path: Path) -> None:
    ran = asked("--explain", str(tmp_path / "out/looks.png"), "photos/test/ant")
    assert (ran.status, ran.err, len(names(ran))) == (0, "", 2)
    with Image.open(tmp_path / "out/looks.png") as drawn:
        assert drawn.format == "PNG" and len(drawn.convert("RGB").getcolors(2**20) or []) > 100

    model = Model(trained.root / "models/photos-cnn")
    pixels = seen(trained.root / PHOTOS[0], model.folder)
    assert isinstance(model.network, torch.nn.Sequential)
    end = [type(layer) for layer in model.network].index(torch.nn.Flatten)
    activation = model.network[:end](model.images(np.stack([pixels]))).detach().requires_grad_()
    model.network[end:](activation)[0, 1].backward()
    assert activation.grad is not None
    heat = (activation.grad.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).relu()  # as in the paper
    scale = 43  # 256 ÷ 6
    scaled = torch.nn.functional.interpolate(heat, (scale * 8, scale * 6), mode="bilinear")[0, 0]
    expected = overlay(pixels.repeat(scale, 0).repeat(scale, 1), scaled.detach().numpy())
    explained = explainer(model)(pixels, "bee").astype(int)
    assert np.abs(explained - expected).max() <= 1
    assert np.abs(explained - pixels.repeat(scale, 0).repeat(scale, 1)).max() > 50


@pytest.mark.parametrize(
    ("network", "explained"),
    [
        ({"name": "timm", "model": "swin_tiny_patch4_window7_224"}, False),  # channels last
        ({"name": "torchvision", "model": "vit_b_32"}, False),  # tokens
        ({"name": "torchvision", "model": "swin_t"}, True),  # channels first at its end
        ({"name": "torchvision", "model": "convnext_tiny"}, True),  # channels last within its blocks
    ],
)
def test_maps_that_tell_places_apart(network: dict[str, str], explained: bool) -> None:
    shape = Shape(3, 224, 224, 2)
    built = build(TypeAdapter(Network).validate_python(network), shape).eval()
    model: Any = SimpleNamespace(
        network=built, shape=shape, images=lambda pixels: torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    )
    assert (last_map(model) is not None) == explained


def test_what_can_not_be_explained(digits: Clone, tmp_path: Path) -> None:
    out = str(tmp_path / "out.png")
    arguments = ["--model", "models/digits-mlp", "--explain", out, str(REPOSITORY / "docs/report.png")]
    ran = digits.run("python", "-m", "pipeline.predict", *arguments)
    failed_in_one_line(ran, "digits-mlp: its network has no convolution")
    assert ran.out == "" and not Path(out).exists()


def test_a_device_that_is_not_there(asked: Predict) -> None:
    for device in ("warp", "meta", "cuda:99"):
        failed_in_one_line(asked("--device", device, "photos"), f"--device '{device}' can't be used here", "cpu")
    assert asked("--device", "cpu", PHOTOS[0]).status == 0
