"""A model as a folder for people without this project: the same answers from ONNX Runtime, and a card."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Clone, commit, failed_in_one_line, here, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from test_networks import network

from pipeline import export
from pipeline.evaluation.inference import mean_logits
from pipeline.exporting import graph
from pipeline.networks import Shape, build
from pipeline.system.console import MissingExtra, UserError

MLP, CNN = "digits-mlp", "digits-cnn"


def test_a_colleague_gets_the_same_answers(digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path) -> None:
    copy, out = copy_of(digits), tmp_path / "for a colleague"
    ran = copy.must_run("python", "-m", "pipeline.export", "--model", f"models/{CNN}", "--out", str(out))
    assert {file.name for file in out.iterdir()} == {"README.md", "classify.py", "model.onnx", "model.pt2"}
    assert "on 64 test images, ONNX Runtime and PyTorch differ by at most" in ran.out

    with zipfile.ZipFile(copy.root / "data/raw/digits/digits.zip") as archive:
        members = archive.namelist()[::150]
        archive.extractall(tmp_path / "digits", members)
    picture(1, 30, 20, "RGBA").save(tmp_path / "digits/transparent.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(2, 40, 9).save(tmp_path / "digits/turned.jpg", exif=turned)
    files = [tmp_path / "digits" / name for name in (*members, "transparent.png", "turned.jpg")]
    said = copy.must_run("python", "-m", "pipeline.predict", "--model", f"models/{CNN}", *map(str, files)).out
    # from another folder, and without this project: -I leaves out PYTHONPATH and the folder
    command = [sys.executable, "-I", str(out / "classify.py"), *map(str, files)]
    theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for mine, other in zip(said.splitlines(), theirs.splitlines(), strict=True):
        assert mine.rpartition(" ")[0] == other.rpartition(" ")[0]
        assert float(mine.rpartition(" ")[2]) == pytest.approx(float(other.rpartition(" ")[2]), abs=2e-4)

    (tmp_path / "broken.png").write_text("no image")
    command[3:] = [str(tmp_path / "broken.png"), str(files[0])]
    broken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1 and broken.stdout == f"{theirs.splitlines()[0]}\n"
    assert (
        broken.stderr.startswith(f"error: {tmp_path / 'broken.png'}: cannot identify")
        and "Traceback" not in broken.stderr
    )

    session = onnxruntime.InferenceSession(out / "model.onnx")
    program = torch.export.load(out / "model.pt2").module()
    for count in (1, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1), np.uint8)
        (found,) = session.run(None, {"images": images})
        assert found.shape == (count, 10) and found.sum(1) == pytest.approx(1, abs=1e-5)
        assert program(torch.from_numpy(images)).detach().numpy() == pytest.approx(found, abs=1e-4)
    with zipfile.ZipFile(out / "model.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for whole in (content, (out / "model.onnx").read_bytes()):
        assert b"site-packages" not in whole and str(copy.root).encode() not in whole

    card = (out / "README.md").read_text()
    metrics = json.loads((copy.root / f"reports/{CNN}/metrics.json").read_text())
    row = re.search(r"^\| test \| 359 \| (\S+) \| (\S+) to (\S+) \|", card, re.MULTILINE)
    assert row and row[1] == f"{metrics['test']['accuracy']:.4f}"
    low, high = wilson(metrics["test"]["accuracy"], 359)
    assert [float(row[2]), float(row[3])] == pytest.approx([low, high], abs=1e-4)
    assert card.index("| val |") < card.index("| test |") and "1,259 train" in card
    temperature = json.loads((copy.root / f"models/{CNN}/model.json").read_text())["temperature"]
    assert f"calibrated on val by a temperature of {temperature}.\n  On test images they are off by 0.0" in card
    assert f"{metrics['test']['macro_f1_low']:.4f} to {metrics['test']['macro_f1_high']:.4f}" in card
    assert row.string[row.end() :].partition("\n")[0].endswith(f"| {metrics['test']['ece']:.4f} |")
    report = json.loads((copy.root / f"reports/{CNN}/classification_report.json").read_text())
    lowest = min((report[str(digit)]["recall"], digit) for digit in range(10))
    weakest = re.search(r"weakest on (\d) \(it finds (\d+) % of (\d+)\)", card)
    assert weakest and int(weakest[2]) == round(100 * lowest[0])
    assert report[weakest[1]]["support"] == int(weakest[3])
    assert "The images: CC BY 4\\.0." in card and "pretrained" not in card and f"evaluate@{CNN}" in card

    before = {file.name: file.read_bytes() for file in out.iterdir()}
    refused = here(copy.root, "export", "--model", f"models/{CNN}", "--out", str(out))
    failed_in_one_line(refused, "is there already")
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}


def test_a_model_with_another_ones_reports(digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path) -> None:
    copy, out = copy_of(digits), tmp_path / "out"
    file = copy.root / f"models/{MLP}/model.safetensors"
    weights = load_file(file)
    file.unlink()  # it may be a link into DVC's cache
    save_file({name: 0.9 * values for name, values in weights.items()}, file)
    refused = here(copy.root, "export", "--model", f"models/{MLP}", "--out", str(out))
    failed_in_one_line(refused, f"models/{MLP}/model.safetensors is not the file", f"dvc checkout models/{MLP}")
    assert not out.exists()


def test_weights_that_one_file_can_not_hold(
    digits: Clone, copy_of: Callable[[Clone], Clone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy, out = copy_of(digits), tmp_path / "out"
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)  # 1.5 GB
    ran = here(copy.root, "export", "--model", f"models/{MLP}", "--out", str(out))
    assert ran.status == 0 and "model.onnx with model.onnx.data, its weights, model.pt2" in ran.out
    assert (out / "model.onnx.data").stat().st_size > 60_000 > (out / "model.onnx").stat().st_size
    assert "`model.onnx` with `model.onnx.data` beside it is all" in (out / "README.md").read_text()
    picture(1).save(tmp_path / "a.png")
    command = [sys.executable, "-I", str(out / "classify.py"), str(tmp_path / "a.png")]
    assert f"{tmp_path}/a.png: " in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_reports_that_are_not_whole(digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path) -> None:
    copy = copy_of(digits)
    for file, keys, words in (
        (f"reports/{MLP}/metrics.json", ["test", "ece"], ["test has no ece", f"dvc repro evaluate@{MLP}"]),
        (f"reports/{MLP}/metrics.json", ["test"], ["test has no accuracy,", f"dvc repro evaluate@{MLP}"]),
        (f"reports/{MLP}/metrics.json", ["val", "loss"], ["val has no loss", f"dvc repro evaluate@{MLP}"]),
        (f"reports/{MLP}/provenance.json", ["model"], ["it has no model", f"dvc repro train@{MLP}"]),
        ("reports/digits/split.json", ["total"], ["it has no total of images by split", "dvc repro split@digits"]),
    ):
        whole = (copy.root / file).read_text()
        inner = report = json.loads(whole)
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        (copy.root / file).write_text(json.dumps(report))
        refused = here(copy.root, "export", "--model", f"models/{MLP}", "--out", str(tmp_path / "out"))
        failed_in_one_line(refused, f"{file} is damaged", *words)
        (copy.root / file).write_text(whole)


def test_the_card_says_which_commit_has_the_result(
    digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path
) -> None:
    copy, out = copy_of(digits), tmp_path / "out"
    commit(copy)
    result = copy.must_run("git", "log", "-1", "--format=%H", f"reports/{MLP}/metrics.json").out
    (copy.root / "notes.txt").write_text("later")
    commit(copy)
    copy.must_run("python", "-m", "pipeline.export", "--model", f"models/{MLP}", "--out", str(out))
    assert f"    git checkout {result[:10]}\n    dvc repro evaluate@{MLP}\n" in (out / "README.md").read_text()


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_an_image_gets_its_size_as_in_training(
    fit: str, digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path
) -> None:
    copy, out = copy_of(digits), tmp_path / "out"
    about = copy.root / f"models/{MLP}/model.json"
    described = json.loads(about.read_text())
    described["preprocessing"] |= {"fit": fit, "max_pixels": 700}
    about.unlink()  # it may be a link into DVC's cache
    about.write_text(json.dumps(described))
    provenance = copy.root / f"reports/{MLP}/provenance.json"
    known = json.loads(provenance.read_text())
    known["model"]["model.json"] = hashlib.sha256(about.read_bytes()).hexdigest()
    provenance.write_text(json.dumps(known))
    assert here(copy.root, "export", "--model", f"models/{MLP}", "--out", str(out)).status == 0
    files = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, file in enumerate(files):
        picture(number, 11 + 9 * number, 40 - 9 * number).save(file)
    said = here(copy.root, "predict", "--model", f"models/{MLP}", *files).out
    command = [sys.executable, "-I", str(out / "classify.py"), *files]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for mine, other in zip(said.splitlines(), theirs.splitlines(), strict=True):
        assert mine.rpartition(" ")[0] == other.rpartition(" ")[0]
        assert float(mine.rpartition(" ")[2]) == pytest.approx(float(other.rpartition(" ")[2]), abs=2e-4)
    picture(9, 27, 26).save(tmp_path / "large.png")
    refused = subprocess.run([*command[:3], str(tmp_path / "large.png")], capture_output=True, text=True)
    assert refused.returncode == 1 and "(702 pixels) exceeds limit of 700 pixels" in refused.stderr


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval (1927, Journal of the American Statistical Association 22)."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - margin, middle + margin


class Untrained(SimpleNamespace):
    """What `graph` needs of a model, with random weights."""

    def probabilities(self, images: np.ndarray[Any, Any]) -> Any:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        with torch.inference_mode():
            given = mean_logits(self.network, (pixels - mean) / std, self.tta).double()
        return (given / self.temperature).softmax(1).numpy()


@pytest.mark.parametrize(
    ("described", "side"),
    [
        (network("mlp", hidden=[9], batch_norm=True, log_softmax=True), 8),
        (network("resnet", widths=[8, 16]), 16),
        (network("airbench"), 32),
        (network("torchvision", model="squeezenet1_1"), 64),
    ],
)
def test_every_kind_of_network(described: Any, side: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    shape = Shape(channels=3, height=side, width=side, classes=5)
    built = build(described, shape).eval()
    known = {"mean": [0.4] * 3, "std": [0.2] * 3, "temperature": 0.5}
    model: Any = Untrained(network=built, tta=True, shape=shape, folder=tmp_path, **known)
    graph.write_onnx(tmp_path / "model.onnx", graph.trace(model), model, {})
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    assert graph.check_onnx(tmp_path / "model.onnx", model, images) < 1e-5

    model.probabilities = lambda images: np.eye(5, dtype=np.float32)[:3]
    with pytest.raises(UserError, match=r"^ONNX Runtime and PyTorch differ by [^\n]*expected 0\.0001$"):
        graph.check_onnx(tmp_path / "model.onnx", model, images)


class Eigenvalues(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(images[:, 0]).real


def test_a_network_that_onnx_does_not_hold(tmp_path: Path) -> None:
    shape = Shape(channels=1, height=5, width=5, classes=5)
    known = {"mean": [0.4], "std": [0.2], "temperature": 1.0, "tta": False, "shape": shape}
    model: Any = Untrained(network=Eigenvalues(), folder=Path("models/odd"), **known)
    line = r"^ONNX can't hold models/odd: [^\n]*linalg_eig[^\n]*`make serve MODEL=models/odd`[^\n]*$"
    with pytest.raises(UserError, match=line):
        graph.write_onnx(tmp_path / "model.onnx", graph.trace(model), model, {})
    (tmp_path / "model.onnx").write_bytes(b"of operators that ONNX Runtime does not know")
    with pytest.raises(UserError, match=r"^ONNX can't run models/odd: [^\n]*$"):
        graph.check_onnx(tmp_path / "model.onnx", model, np.zeros((1, 5, 5, 1), np.uint8))


def test_packages_that_are_not_installed_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    monkeypatch.setattr("sys.argv", ["export", "--model", "models/any", "--out", str(tmp_path / "exported")])
    with pytest.raises(MissingExtra, match=r"^export needs the package onnxscript[^\n]*uv pip install[^\n]*$"):
        export.main()
