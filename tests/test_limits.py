"""The limit of pixels in params.yaml, and a decoder that is not installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import REPOSITORY, Project, class_folders, failed_in_one_line, picture
from PIL import Image
from samples import encoded

from pipeline.config.datasets import Check


def checked(project: Project) -> pd.DataFrame:
    return pd.read_parquet(project.root / "data/checked/photos.parquet").set_index("path")


def test_a_limit_of_pixels_that_the_person_chooses(project: Project) -> None:
    class_folders(project.root / "in", {"a": 4, "b": 4})
    picture(99, 30, 40).save(project.root / "in/a/large.png")
    decisions = project.root / "data/decided/photos.csv"
    decisions.parent.mkdir(parents=True)
    decisions.write_text("path,decision,label,note\na/large.png,keep,,\n")

    project.dataset("photos", "in", max_pixels=1199, max_quarantined=1)
    project.must_run("check", "photos")
    row = checked(project).loc["a/large.png"]
    assert (list(row.issues), row.status) == (["too_large"], "quarantined")
    assert row.reason == "40×30 pixels, more than check.max_pixels = 1199 allows"
    raised = "raise datasets.photos.check.max_pixels in params.yaml"
    failed_in_one_line(project.run("split", "photos"), "data/decisions/photos.csv, line 2", "too_large", raised)

    project.dataset("photos", "in", max_pixels=1200)
    project.must_run("check", "photos")
    assert checked(project).status["a/large.png"] != "quarantined"
    for stage in ("split", "pack", "report"):
        project.must_run(stage, "photos")
    packed = project.root / "data/packed/photos"
    assert "a/large.png" in list(pd.read_parquet(packed / "index.parquet").path)
    assert json.loads((packed / "meta.json").read_text())["preprocessing"]["max_pixels"] == 1200  # for predictions

    before = (project.root / "data/checked/photos.parquet").read_bytes()
    project.dataset("photos", "in", max_pixels=1201)
    project.must_run("check", "photos")  # no row is another, but `pack` shall pass the limit on
    assert (project.root / "data/checked/photos.parquet").read_bytes() != before


def test_another_limit_inspects_again_what_an_interrupted_check_has_left(project: Project) -> None:
    class_folders(project.root / "in", {"a": 2, "b": 2})
    project.dataset("photos", "in", max_pixels=100)
    failed_in_one_line(project.run("check", "photos"), "4 of 4 images are broken")
    project.dataset("photos", "in", max_pixels=120)
    project.must_run("check", "photos")
    assert set(checked(project).status) != {"quarantined"}


def test_photos_of_phones_with_108_megapixels_are_read_by_default(project: Project) -> None:
    assert Check().max_pixels >= 178_956_970  # where Pillow refuses
    class_folders(project.root / "in", {"a": 3, "b": 3})
    photo = picture(60, 9, 12, "L").resize((12000, 9000), Image.Resampling.NEAREST)
    (project.root / "in/a/photo.jpg").write_bytes(encoded(photo, "JPEG", quality=60))
    project.dataset("photos", "in", [9, 12], channels=1)
    project.must_run("check", "photos")
    row = checked(project).loc["a/photo.jpg"]
    assert (row.width, row.height, row.status) == (12000, 9000, "warning")
    assert "odd_size" in row.issues
    project.must_run("pack", "photos")
    packed = project.root / "data/packed/photos"
    (place,) = np.flatnonzero(pd.read_parquet(packed / "index.parquet").path == "a/photo.jpg")
    images = np.load(packed / "images.npy")
    reduced = np.asarray(photo.resize((12, 9), Image.Resampling.BILINEAR))
    assert np.abs(images[place, :, :, 0].astype(int) - reduced).max() <= 2


def test_a_limit_that_is_none(project: Project) -> None:
    project.dataset("photos", "in", max_pixels=0)
    failed_in_one_line(project.run("check", "photos"), "datasets.photos.check.max_pixels", "0")


def test_without_its_decoder_heic_is_named_and_then_read(project: Project, tmp_path: Path) -> None:
    class_folders(project.root / "in", {"a": 3, "b": 3})
    (project.root / "in/a/phone.heic").write_bytes(encoded(picture(9, 40, 30), "HEIF"))
    project.dataset("photos", "in")
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/pillow_heif.py").write_text("raise ModuleNotFoundError(name='pillow_heif')\n")
    ran = project.run("check", "photos", PYTHONPATH=f"{tmp_path / 'absent'}:{REPOSITORY}")
    failed_in_one_line(ran, "1 of 7 images are broken")
    assert "a/phone.heic: unreadable: HEIC, which needs the package pillow-heif: run" in ran.err
    project.must_run("check", "photos")
    assert checked(project).format["a/phone.heic"] == "HEIF"
