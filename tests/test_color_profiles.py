"""Embedded color profiles: told where they are not sRGB, and converted where `pack.color_profile` says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project, failed_in_one_line
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile
from samples import ADOBE_RGB, SRGB, encoded, gray_profile, rgb_profile

GAMMA = 1.8
COLOR = np.random.default_rng(2).integers(40, 216, (6, 8, 3)).astype(np.uint8)
GRAY, ALPHA = COLOR[..., 0], COLOR[..., 1]


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def brightened(values: np.ndarray) -> np.ndarray:
    """What values of gamma 1.8 are in sRGB."""
    return srgb_curve((values / 255) ** GAMMA)


def from_adobe_rgb(values: np.ndarray) -> np.ndarray:
    """What values of Adobe RGB (1998) are in sRGB: the matrices are those of the two standards."""
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    to_srgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    return srgb_curve(((values / 255) ** 2.2 @ to_xyz.T @ to_srgb.T).clip(0, 1))


def png(values: np.ndarray, profile: bytes) -> bytes:
    return encoded(Image.fromarray(values), "PNG", icc_profile=profile)


BRIGHT = rgb_profile(SRGB, GAMMA)
ADOBE = rgb_profile(ADOBE_RGB, 2.2)
OWN = ImageCmsProfile(createProfile("sRGB")).tobytes()
PALETTE = Image.fromarray(COLOR).quantize(16)
# name: file, pixels as stored, pixels in sRGB, issue
CASES = {
    "none.png": (encoded(Image.fromarray(COLOR), "PNG"), COLOR, COLOR, ""),
    "srgb.png": (png(COLOR, OWN), COLOR, COLOR, ""),
    "srgb-of-gamma-2.2.png": (png(COLOR, rgb_profile(SRGB, 2.2)), COLOR, COLOR, ""),
    "bright.png": (png(COLOR, BRIGHT), COLOR, brightened(COLOR), "color_profile"),
    "bright.tif": (
        encoded(Image.fromarray(COLOR), "TIFF", icc_profile=BRIGHT), COLOR, brightened(COLOR), "color_profile"
    ),
    "bright.webp": (
        encoded(Image.fromarray(COLOR), "WEBP", lossless=True, icc_profile=BRIGHT), COLOR, brightened(COLOR),
        "color_profile",
    ),
    "adobe.png": (png(COLOR, ADOBE), COLOR, from_adobe_rgb(COLOR), "color_profile"),
    "gray.png": (png(GRAY, gray_profile(GAMMA)), GRAY, brightened(GRAY), "color_profile"),
    "gray-2.2.png": (png(GRAY, gray_profile(2.2)), GRAY, GRAY, ""),
    "deep-gray.png": (
        png(GRAY.astype(np.uint16) * 257, gray_profile(GAMMA)), GRAY, brightened(GRAY), "color_profile"
    ),
    "gray-of-rgb.png": (png(GRAY, BRIGHT), GRAY, brightened(GRAY), "color_profile"),
    "palette.png": (
        encoded(PALETTE, "PNG", icc_profile=BRIGHT), np.asarray(PALETTE.convert("RGB")),
        brightened(np.asarray(PALETTE.convert("RGB"))), "color_profile",
    ),
    "transparent.png": (
        png(np.dstack([COLOR, np.full_like(ALPHA, 128)]), BRIGHT), 127 + COLOR * (128 / 255),
        127 + brightened(COLOR) * (128 / 255), "color_profile",
    ),
    "color-of-gray.png": (png(COLOR, gray_profile(GAMMA)), COLOR, COLOR, "damaged_metadata"),
    "broken.png": (png(COLOR, BRIGHT[:200]), COLOR, COLOR, "damaged_metadata"),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("profiles"))
    for number, (name, (content, *_)) in enumerate(CASES.items()):
        path = project.root / "in" / "ab"[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    project.dataset("photos", "in", [6, 8], max_quarantined=0, near_duplicates=False)
    project.must_run("check", "photos")
    return project


def packed(project: Project) -> dict[str, np.ndarray]:
    project.must_run("pack", "photos")
    folder = project.root / "data/packed/photos"
    paths = pd.read_parquet(folder / "index.parquet").path
    return {Path(path).name: image for path, image in zip(paths, np.load(folder / "images.npy"), strict=True)}


def as_rgb(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)


def test_check_tells_profiles_that_are_not_srgb(project: Project) -> None:
    table = pd.read_parquet(project.root / "data/checked/photos.parquet")
    found = {
        Path(row.path).name: {"color_profile", "damaged_metadata"}.intersection(row.issues)
        for row in table.itertuples()
    }
    assert found == {name: {issue} - {""} for name, (*_, issue) in CASES.items()}


def test_colors_are_packed_as_stored(project: Project) -> None:
    pixels = packed(project)
    for name, (_, as_stored, _, _) in CASES.items():
        assert np.abs(pixels[name] - as_rgb(as_stored).astype(float)).max() <= 1.5, name


def test_colors_are_converted_to_srgb_where_the_key_says_so(project: Project) -> None:
    project.params["datasets"]["photos"]["pack"]["color_profile"] = "srgb"
    pixels = packed(project)
    for name, (_, _, in_srgb, _) in CASES.items():
        assert np.abs(pixels[name] - as_rgb(in_srgb).astype(float)).max() <= 2.5, name
    project.params["datasets"]["photos"]["pack"]["color_profile"] = "adobe"
    failed_in_one_line(project.run("pack", "photos"), "pack.color_profile", "'adobe'", "'stored' or 'srgb'")
