"""The comparison of docs/compare.md from start to end, as written, on fewer and smaller images."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRONMENT, REPOSITORY, Clone, class_folders, edit, follow, recipe

TEXT = (REPOSITORY / "docs/compare.md").read_text()
NAMES = ("photos-mlp", "photos-cnn", "photos-cnn-flip")


def steps(beginning: str, *replaced: tuple[str, str]) -> str:
    return recipe(beginning, *replaced, document="compare")


def some_photos(folder: Path) -> Path:
    """A zip of 80 images in two classes: real photos where they are at hand."""
    out = folder / "photos.zip"
    real = Path(os.environ.get("DATA_MIRROR", ""), "cats-dogs/cats-dogs-sample.zip")
    if real.is_file():
        with zipfile.ZipFile(real) as source, zipfile.ZipFile(out, "w") as archive:
            photos = [about.filename for about in source.infolist() if about.file_size]  # four are empty
            for name in photos[:: len(photos) // 80]:
                archive.writestr(name, source.read(name))
    else:
        class_folders(folder / "photos", {"Cat": 40, "Dog": 40})
        shutil.make_archive(str(out.with_suffix("")), "zip", folder / "photos")
    return out


@pytest.mark.usefixtures("untracked")  # `make ui` logs all results
def test_the_walk_as_written(digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path) -> None:
    clone = copy_of(digits)
    follow(clone, steps("mkdir -p data/raw", ("~/photos.zip", str(some_photos(tmp_path)))))
    dataset, experiments = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    edit(
        clone.root / "params.yaml", "\n# Optional: pretrained backbones", f"{dataset}\n# Optional: pretrained backbones"
    )
    with (clone.root / "params.yaml").open("a") as file:
        file.write(f"\n{experiments}")
    follow(clone, steps('git add -A\ngit commit -m "Add photos'))

    table = follow(clone, steps(".venv/bin/python -m pipeline.compare 'photos-*'")).out
    assert [line.split()[0] for line in table.splitlines()] == ["experiment", *NAMES]
    grid = tmp_path / "changed.png"
    compared = follow(
        clone, steps(".venv/bin/python -m pipeline.compare photos-cnn", ("/tmp/changed.png", str(grid)))
    ).out
    assert "photos-cnn by these images." in compared
    assert grid.exists()

    shown = follow(clone, steps(".venv/bin/dvc exp run --queue")).out
    first = clone.must_run("dvc", "exp", "list", "--name-only").out.split()[0]
    assert first in shown and "photos-cnn-flip.val.loss" in shown  # on so few images, accuracies may be the same
    applied = follow(clone, steps(".venv/bin/dvc exp apply", ("wiser-alap", first))).out
    assert "experiments.photos-cnn-flip.epochs" in applied and "photos-cnn-flip.val.loss" in applied
    assert "photos-cnn-flip at HEAD by these images." in applied
    follow(clone, steps(".venv/bin/dvc plots diff"))
    follow(clone, steps("git checkout"))
    assert clone.must_run("git", "status", "--short").out == ""
    assert clone.must_run("dvc", "status").out == "Data and pipelines are up to date.\n"

    runs = pages(clone, steps("make ui"))
    assert any(line.startswith("photos: http://127.0.0.1:5000/") for line in runs)


def pages(clone: Clone, command: str) -> list[str]:
    """What `make ui` prints before it serves."""
    ui: Any = subprocess.Popen(
        ["bash", "-c", command],
        cwd=clone.root,
        env={**ENVIRONMENT, "MLFLOW_TRACKING_URI": ""},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        printed: list[str] = []
        while not (printed and printed[-1].startswith("photos: ")):
            line = ui.stdout.readline()
            assert line, printed  # it has ended
            printed.append(line)
        return printed
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.wait()
