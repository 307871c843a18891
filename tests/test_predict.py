"""`python -m pipeline.predict`: what it prints, and that it says what `evaluate` said of the same images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ENVIRONMENT, REPOSITORY, Project, Ran, class_folders, failed_in_one_line, picture
from PIL import Image
from samples import ADOBE_RGB, rgb_profile

from pipeline import evaluate, predict, train
from pipeline.evaluation.model import Model
from pipeline.images.decode import ORIENTATION, to_size
from pipeline.prediction import classify, grids
from pipeline.prediction.pixels import preprocessing
from pipeline.system.console import run

CLASSES = ["ant", "bee", "cat"]
Predict = Callable[..., Ran]


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
    project.dataset("photos", "photos", [8, 6])
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
                 "pipe (not a file)", "gone (not a file)"):  # fmt: skip
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
    failed_in_one_line(asked("--grid", "models", "photos/test/ant"), "Is a directory")


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
    pixels = preprocessing(Model(model)).apply(file.read_bytes(), file.name)
    assert isinstance(pixels, np.ndarray)
    return pixels


def test_a_model_of_before_there_was_a_choice_scales_bilinearly_and_crops(trained: Project, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models/photos-cnn", tmp_path / "model")
    file = trained.root / "photos/train/ant/000.png"
    with Image.open(file) as image:
        bicubic, bilinear = to_size(image, 8, 6, "bicubic", "pad"), to_size(image, 8, 6, "bilinear", "crop")
    assert np.array_equal(seen(file, tmp_path / "model"), bicubic)
    about = json.loads((tmp_path / "model/model.json").read_text())
    del about["preprocessing"]["interpolation"], about["preprocessing"]["fit"]
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    assert np.array_equal(seen(file, tmp_path / "model"), bilinear)


def test_model_that_is_missing(asked: Predict) -> None:
    failed_in_one_line(asked("photos", model="models/other"), "models/other/model.json is not there", "dvc repro")
    failed_in_one_line(asked("photos", model="photos/test/ant/000.png"), "Not a directory")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is not there"),
        (lambda model: (model / "model.json").unlink(), "model.json is not there"),
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
    ],
    ids=[
        "no weights", "no json", "half weights", "half json", "empty", "binary", "list", "no keys", "other network",
        "interpolation", "fit",
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


def test_an_image_whose_scores_are_no_numbers(trained: Project, asked: Predict, tmp_path: Path) -> None:
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
