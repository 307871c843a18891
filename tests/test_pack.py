"""The stage `pack`: pixels as a person sees them, the same bytes every time, or one line and nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import Project, class_folders, failed_in_one_line, picture, run, write_manifest
from PIL import Image
from PIL.Image import Transpose

from pipeline.images.decode import decode, to_size, upright

# What a camera that was turned stores: the picture that is upright, turned the other way round
AS_STORED = {
    1: None, 2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
}  # fmt: skip


class Packed(NamedTuple):
    images: np.ndarray
    table: pd.DataFrame  # of index.parquet
    meta: dict[str, Any]


def packed(project: Project, name: str = "photos") -> Packed:
    folder = project.root / "data/packed" / name
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "index.parquet", "meta.json"]
    assert [path.name for path in folder.parent.iterdir() if ".partial" in path.name] == []
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Packed(images, pd.read_parquet(folder / "index.parquet"), json.loads((folder / "meta.json").read_text()))


def prepare(project: Project, name: str = "photos", *stages: str) -> None:
    for stage in stages or ("check", "pack"):
        project.must_run(stage, name)


def check_by_hand(project: Project, paths: list[str], name: str = "photos") -> None:
    """What `pack` reads of the table of `check`, without running that."""
    table = [{"path": path, "pixel_hash": "0"} for path in paths]
    write_manifest(project.root / f"data/checked/{name}.parquet", table, [])


def decoded(image: Image.Image, form: str = "PNG", **options: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return decode(stream.getvalue(), "x").image


def pixels(image: Image.Image, channels: int) -> np.ndarray:
    return to_size(upright(image, channels), image.height, image.width)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("pack"))
    class_folders(project.root / "in", {"b": 30, "a": 40}, height=20, width=16)
    (project.root / "in/a/broken.png").write_bytes(b"")
    project.dataset("photos", "in", [10, 8], max_quarantined=0.1)
    prepare(project)
    return project


together = pytest.mark.xdist_group("pack")  # in one process: its fixture is made once


@together
def test_one_array_its_index_and_what_is_known_of_it(photos: Project) -> None:
    images, index, meta = packed(photos)
    assert isinstance(images, np.memmap) and images.flags.c_contiguous
    assert (images.shape, images.dtype) == ((70, 10, 8, 3), np.uint8)
    checked = pd.read_parquet(photos.root / "data/checked/photos.parquet")
    assert list(index.path) == list(checked.path[checked.path != "a/broken.png"])
    for channel in range(3):
        values = images[..., channel].astype(int)
        assert list(index[f"sum_{channel}"]) == list(values.sum((1, 2)))
        assert list(index[f"sum_of_squares_{channel}"]) == list((values**2).sum((1, 2)))
    assert len(index.columns) == 7
    assert (meta["images"], meta["height"], meta["width"], meta["channels"]) == (70, 10, 8, 3)
    assert meta["sha256"] == hashlib.sha256(images.tobytes()).hexdigest()
    assert set(meta["preprocessing"]) == {
        "orientation",
        "transparency",
        "fit",
        "resize",
        "interpolation",
        "color_profile",
    }


@together
def test_every_row_of_the_index_is_its_image(photos: Project) -> None:
    images, index, _ = packed(photos)
    for position, path in enumerate(index.path):
        with Image.open(photos.root / "in" / path) as image:  # 20 × 16 to 10 × 8: exactly half
            half = image.resize((8, 10), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images[position], half)


@together
def test_the_same_bytes_again(photos: Project) -> None:
    folder = photos.root / "data/packed/photos"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    prepare(photos, "photos", "pack")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    text = before["meta.json"].decode()
    assert str(photos.root) not in text and os.uname().nodename not in text


def test_what_a_decision_may_bring_back_is_packed_too(project: Project) -> None:
    """Quarantined copies and images without a class: `split` decides on them, and nothing is decoded again."""
    class_folders(project.root / "in/train", {"a": 12, "b": 12})
    shutil.copytree(project.root / "in/train/a", project.root / "in/test/a")
    class_folders(project.root / "in/test", {"b": 3}, width=7)
    picture(99).save(project.root / "in/loose.png")
    for number in range(4, 12):
        (project.root / f"in/test/a/{number:03d}.png").unlink()
    (project.root / "in/train/a/broken.png").write_bytes(b"")
    project.dataset("photos", "in", max_quarantined=1)
    prepare(project)
    checked = pd.read_parquet(project.root / "data/checked/photos.parquet").set_index("path")
    paths = packed(project).table.path
    assert {"loose.png", "train/a/000.png"} <= set(paths[checked.status[paths].to_numpy() == "quarantined"])
    assert set(checked.index) - set(paths) == {"train/a/broken.png"}
    before = everything(project.root / "data/packed")

    decisions = project.root / "data/decisions/photos.csv"
    decisions.parent.mkdir()
    lines = ["path,decision,label,note", "loose.png,keep,b,", "test/a/000.png,drop,,", "train/a/000.png,keep,,"]
    decisions.write_text("\n".join(lines))
    project.experiment("photos-mlp", "photos", compute={"device": "cpu", "threads": 1})
    prepare(project, "photos", "decisions", "split")
    splits = pd.read_parquet(project.root / "data/splits/photos.parquet").set_index("path")
    assert splits.label["loose.png"] == "b" and splits.split["train/a/000.png"] != "test"
    ran = project.must_run("train", "photos-mlp")
    assert f" {(splits.split == 'train').sum()} images of 2 classes (a, b), on cpu" in ran.out
    assert everything(project.root / "data/packed") == before


# Orientation, modes, sizes


def test_every_orientation_is_packed_upright(project: Project) -> None:
    paths = []
    for label in ("a", "b"):
        (project.root / "in" / label).mkdir(parents=True)
        true = picture(ord(label), 12, 8)
        smooth = true.resize((64, 96), Image.Resampling.BICUBIC)
        for value, turn in AS_STORED.items():
            exif = Image.Exif()
            exif[0x0112] = value
            for suffix, original, options in [
                ("png", true, {}), ("tif", true, {}), ("webp", true, {"lossless": True}),
                ("jpg", smooth, {"quality": 100, "subsampling": 0}),
            ]:  # fmt: skip
                stored = original.transpose(turn) if turn is not None else original
                path = f"{label}/{value}.{suffix}"
                stored.save(project.root / "in" / path, exif=exif, **options)
                paths.append(path)
    check_by_hand(project, sorted(paths))
    project.dataset("photos", "in", [12, 8])
    prepare(project, "photos", "pack")
    images, index, _ = packed(project)
    for image, path in zip(images, index.path, strict=True):
        upright_one = images[list(index.path).index(f"{path[0]}/1.{path.rpartition('.')[2]}")]
        difference = np.abs(image.astype(int) - upright_one)
        assert difference.max() <= (6 if path.endswith("jpg") else 0), path
        if not path.endswith("jpg"):
            np.testing.assert_array_equal(image, picture(ord(path[0]), 12, 8))


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_an_orientation_that_makes_no_sense_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(pixels(decoded(picture(1), exif=exif), 3), picture(1))


GRAY = np.random.default_rng(3).integers(0, 256, (6, 5), np.uint8)
COLOR = np.random.default_rng(4).integers(0, 256, (6, 5, 3), np.uint8)
ALPHA = np.random.default_rng(5).integers(0, 256, (6, 5), np.uint8)
OPACITY = ALPHA[:, :, None] / 255


def luma(color: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow documents it."""
    return color @ np.array([299, 587, 114]) / 1000


def with_transparent_color() -> Image.Image:
    image = Image.fromarray(COLOR)
    image.info["transparency"] = tuple(int(value) for value in COLOR[0, 0])
    return image


def palette(transparency: int | None = None) -> Image.Image:
    image = Image.fromarray(GRAY // 64, "L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]])[GRAY // 64]
HOLE = COLOR.copy()
HOLE[(COLOR[0, 0] == COLOR).all(-1)] = 255
WIDE = np.random.default_rng(6).integers(0, 65536, (6, 5)).astype(np.uint16)
MODES: dict[str, tuple[Image.Image, str, np.ndarray]] = {
    "L": (Image.fromarray(GRAY), "PNG", GRAY),
    "RGB": (Image.fromarray(COLOR), "PNG", COLOR),
    "1": (Image.fromarray(GRAY > 99), "PNG", (GRAY > 99) * 255),
    "LA": (Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)]), "PNG",
           GRAY * OPACITY[..., 0] + 255 * (1 - OPACITY[..., 0])),
    "RGBA": (Image.fromarray(np.dstack([COLOR, ALPHA])), "PNG", COLOR * OPACITY + 255 * (1 - OPACITY)),
    "RGB with a transparent color": (with_transparent_color(), "PNG", HOLE),
    "P": (palette(), "PNG", PALETTE),
    "P with a transparent color": (palette(1), "PNG", np.where((GRAY // 64 == 1)[..., None], 255, PALETTE)),
    "P of a GIF": (palette(1), "GIF", np.where((GRAY // 64 == 1)[..., None], 255, PALETTE)),
    "16 bits": (Image.fromarray(WIDE), "PNG", WIDE // 256),
    "16 bits in a TIFF": (Image.fromarray(WIDE), "TIFF", WIDE // 256),
    "16 bits big-endian": (Image.fromarray(WIDE.astype(">u2")), "TIFF", WIDE // 256),
    "32 bits that hold 16": (Image.fromarray(WIDE.astype(np.int32)), "TIFF", WIDE // 257),
    "float": (Image.fromarray(GRAY / np.float32(255)), "TIFF", GRAY),
    "CMYK": (Image.fromarray(np.dstack([COLOR, ALPHA]), "CMYK"), "TIFF", (255 - COLOR) * (1 - OPACITY)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_color_mode_as_a_person_sees_it(mode: str, channels: int) -> None:
    image, form, expected = MODES[mode]
    seen = pixels(decoded(image, form), channels)
    assert seen.shape == (6, 5, channels) and seen.dtype == np.uint8
    if channels == 1 and expected.ndim == 3:
        expected = luma(expected)
    difference = np.abs(seen - expected.reshape(6, 5, -1).astype(float))
    assert difference.max() <= 1.5


def test_a_turned_image_with_alpha_and_16_bits_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGBA", "16 bits", "P with a transparent color"):
        image, form, _ = MODES[mode]
        turned = upright(decoded(image, form, exif=exif), 3)
        still = upright(decoded(image, form), 3)
        np.testing.assert_array_equal(turned, still.transpose(Transpose.ROTATE_270))


@pytest.mark.parametrize(
    ("height", "width", "size", "rows", "columns"),
    [
        (16, 8, (8, 8), slice(4, 12), slice(0, 8)),  # portrait: the middle
        (8, 16, (8, 8), slice(0, 8), slice(4, 12)),  # landscape
        (8, 8, (4, 8), slice(2, 6), slice(0, 8)),  # [height, width]
        (8, 8, (8, 4), slice(0, 8), slice(2, 6)),
        (28, 28, (28, 28), slice(0, 28), slice(0, 28)),  # nothing to do
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_center_is_cut_out(
    height: int, width: int, size: tuple[int, int], rows: slice, columns: slice, mode: str
) -> None:
    image = picture(1, height, width, mode)
    expected = np.asarray(image)[rows, columns]
    np.testing.assert_array_equal(to_size(image, *size), expected.reshape(*size, -1))


@pytest.mark.parametrize(
    ("height", "width"), [(60, 20), (20, 60), (31, 57), (1, 90), (90, 1), (1, 1), (3, 2), (10, 10)]
)
@pytest.mark.parametrize("size", [(10, 10), (6, 18), (1, 1)])
def test_any_shape_becomes_the_wanted_size_without_distortion(height: int, width: int, size: tuple[int, int]) -> None:
    ramp = np.linspace(0, 255, height)[:, None] + np.zeros(width)
    result = to_size(Image.fromarray(ramp.astype(np.uint8)), *size)[:, :, 0].astype(float)
    assert result.shape == size
    scale = max(size[0] / height, size[1] / width)
    visible = size[0] / (height * scale)  # the share of the height that the crop leaves
    if height >= 20:
        assert abs((result[-1] - result[0]).mean() - 255 * visible * (1 - 1 / size[0])) < 16
    assert abs(result.mean() - ramp.mean()) < 8 or height == 1
    assert result.std(axis=1).max() < 1e-9  # columns stay alike


def test_bicubic_is_pillows(project: Project) -> None:
    class_folders(project.root / "in", {"a": 1, "b": 1}, height=20, width=16)
    project.dataset("photos", "in", [10, 8])
    project.params["datasets"]["photos"]["pack"]["interpolation"] = "bicubic"
    prepare(project)
    images, index, meta = packed(project)
    assert meta["preprocessing"]["interpolation"] == "bicubic"
    for image, path in zip(images, index.path, strict=True):
        with Image.open(project.root / "in" / path) as stored:
            np.testing.assert_array_equal(image, stored.resize((8, 10), Image.Resampling.BICUBIC))
            assert not np.array_equal(image, stored.resize((8, 10), Image.Resampling.BILINEAR))


def test_crop_pad_or_stretch(project: Project) -> None:
    class_folders(project.root / "in", {"a": 10, "b": 10}, height=16, width=16)
    wide = Image.new("RGB", (40, 10), (0, 128, 0))
    wide.paste((255, 0, 0), (0, 0, 12, 10))
    wide.paste((0, 0, 255), (28, 0, 40, 10))
    for name in ("a/wide.png", "b/wide.png"):
        wide.save(project.root / "in" / name)
    project.dataset("photos", "in", 8)
    prepare(project, "photos", "check")
    found, said = {}, {}
    for fit in ("crop", "pad", "stretch"):
        project.params["datasets"]["photos"]["pack"]["fit"] = fit
        said[fit] = project.must_run("pack", "photos").out
        images, index, meta = packed(project)
        assert meta["preprocessing"]["fit"] == fit
        assert meta["heavy_crop"] == (2 if fit == "crop" else 0)
        found[fit] = images[list(index.path).index("a/wide.png")]
    assert (found["crop"] == (0, 128, 0)).all()  # red and blue are cut off
    np.testing.assert_array_equal(found["pad"][3:5], wide.resize((8, 2), Image.Resampling.BILINEAR))
    assert not found["pad"][[0, 1, 2, 5, 6, 7]].any()
    np.testing.assert_array_equal(found["stretch"], wide.resize((8, 8), Image.Resampling.BILINEAR))
    assert "warning: heavy_crop: cropping to 8 × 8 cuts more than 40% off 2 of 22 images" in said["crop"]
    assert "datasets.photos.pack.fit" in said["crop"]
    assert said["pad"] == said["stretch"] == "photos: 22 × 8 × 8 × 3 uint8, 0.0 MB\nphotos: 2 classes: a, b\n"


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3), (8, 8), (9000, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_shape_can_be_padded(size: tuple[int, int], channels: int) -> None:
    image = Image.new("L" if channels == 1 else "RGB", size, "white")
    found = to_size(image, 8, 6, fit="pad")
    assert found.shape == (8, 6, channels)
    scale = min(6 / size[0], 8 / size[1])
    inner = [max(1, round(side * scale)) for side in size]
    assert (found == 255).all(axis=2).sum() == inner[0] * inner[1] and set(np.unique(found)) <= {0, 255}
    np.testing.assert_allclose(np.argwhere(found[:, :, 0]).mean(0), (3.5, 2.5), atol=0.5)  # in the middle


def test_downscaling_averages_instead_of_dropping_pixels() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    result = to_size(Image.fromarray(stripes), 8, 8)
    assert np.abs(result[:, 1:-1].astype(int) - 127).max() < 8


def test_one_and_three_channels(project: Project) -> None:
    class_folders(project.root / "in", {"a": 3, "b": 3}, height=8, width=8)
    check_by_hand(project, [f"{label}/{number:03d}.png" for label in "ab" for number in range(3)])
    project.dataset("photos", "in", 8)
    prepare(project, "photos", "pack")
    color = np.array(packed(project).images)
    project.dataset("photos", "in", 8, channels=1)
    prepare(project, "photos", "pack")
    gray, index, _ = packed(project)
    assert (gray.shape, color.shape) == ((6, 8, 8, 1), (6, 8, 8, 3))
    assert np.abs(gray[..., 0] - luma(color)).max() <= 1
    assert list(index.columns) == ["path", "sum_0", "sum_of_squares_0"]


# Array formats


def test_idx_files_from_end_to_end(project: Project) -> None:
    folder = project.root / "in"
    folder.mkdir()
    random = np.random.default_rng(2)
    arrays = {}
    for split, count in (("train", 60), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 3
        arrays[split] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    project.dataset("mnist", "in", 28, channels=1, split={"val": 0.1}, classes=["nil", "one", "two"])
    prepare(project, "mnist", "check", "pack", "split")
    images, index, _ = packed(project, "mnist")
    np.testing.assert_array_equal(images[:60, :, :, 0], arrays["train"][0])
    np.testing.assert_array_equal(images[60:, :, :, 0], arrays["t10k"][0])
    splits = pd.read_parquet(project.root / "data/splits/mnist.parquet")
    assert list(splits.path) == list(index.path)
    labels = np.concatenate([labels for _, labels in arrays.values()])
    assert list(splits.label) == [["nil", "one", "two"][label] for label in labels]
    assert list(splits.split[60:]) == ["test"] * 20 and set(splits.split[:60]) == {"train", "val"}


# What goes wrong


@pytest.fixture
def three_each(project: Project) -> Project:
    class_folders(project.root / "in", {"a": 3, "b": 3}, height=8, width=8)
    check_by_hand(project, [f"{label}/{number:03d}.png" for label in "ab" for number in range(3)])
    project.dataset("photos", "in")
    return project


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_source_that_changed_after_check(three_each: Project) -> None:
    prepare(three_each, "photos", "pack")
    before = everything(three_each.root / "data")
    image = three_each.root / "in/a/001.png"
    content = image.read_bytes()
    for damaged in (b"", content[:100]):
        image.write_bytes(damaged)
        ran = three_each.run("pack", "photos")
        failed_in_one_line(ran, "a/001.png", "the source has changed", "dvc repro")
        assert everything(three_each.root / "data") == before
    image.unlink()
    failed_in_one_line(three_each.run("pack", "photos"), "a/001.png", "the source has changed")
    shutil.rmtree(three_each.root / "in")
    failed_in_one_line(three_each.run("pack", "photos"), "in is not there")
    assert everything(three_each.root / "data") == before


def test_a_new_image_waits_for_check(three_each: Project) -> None:
    prepare(three_each, "photos", "pack")
    before = everything(three_each.root / "data")
    picture(99).save(three_each.root / "in/a/0005.png")
    prepare(three_each, "photos", "pack")
    assert everything(three_each.root / "data") == before


def test_before_check_has_run(project: Project) -> None:
    project.dataset("photos", "in")
    failed_in_one_line(project.run("pack", "photos"), "data/checked/photos.parquet is not there", "dvc repro")
    assert not (project.root / "data").exists()


def test_what_a_killed_run_left_is_swept_away(three_each: Project) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    litter, others = (three_each.root / f"data/packed/.photos.{pid}.partial" for pid in (ended.pid, os.getppid()))
    for folder in (litter, others):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"half")
    prepare(three_each, "photos", "pack")
    packed_folder = three_each.root / "data/packed/photos"
    assert np.load(packed_folder / "images.npy").shape == (6, 8, 8, 3) and not litter.exists()
    assert (others / "images.npy").read_bytes() == b"half"  # of a process that still writes


@pytest.fixture
def small_disk(three_each: Project) -> Iterator[Path]:
    """A file system of 1 MB where the packed images go."""
    folder = three_each.root / "data/packed"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [300, 250])  # the third image does not fit; the sixth
def test_a_full_disk(three_each: Project, small_disk: Path, size: int) -> None:
    three_each.dataset("photos", "in", size)
    failed_in_one_line(three_each.run("pack", "photos"), "No space left on device")
    assert list(small_disk.iterdir()) == []
    three_each.dataset("photos", "in", 8)
    prepare(three_each, "photos", "pack")
    before = everything(small_disk)
    three_each.dataset("photos", "in", size)
    failed_in_one_line(three_each.run("pack", "photos"), "No space left on device")
    assert everything(small_disk) == before and len(before) == 3
    assert [path.name for path in small_disk.iterdir()] == ["photos"]


def test_a_folder_that_may_not_be_written(three_each: Project) -> None:
    (three_each.root / "data/packed").write_text("a file where the folder should be")
    failed_in_one_line(three_each.run("pack", "photos"), "data/packed")


PEAK = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // (1 if sys.platform != "darwin" else 1024))
"""


def test_memory_does_not_grow_with_the_number_of_images(project: Project) -> None:
    peaks = {}
    side = 160
    for count in (300, 1500):
        with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
            for number in range(count):
                stream = io.BytesIO()
                Image.new("RGB", (4, 4), (number % 256, number // 256, 9)).save(stream, "PNG")
                archive.writestr(f"c{number % 2}/{number:04d}.png", stream.getvalue())
        check_by_hand(project, [f"c{n % 2}/{n:04d}.png" for n in range(count)])
        project.dataset("photos", "in.zip", side)
        command = project.command("pack", "photos")
        repository = str(Path(__file__).parents[1])
        ran = run([sys.executable, "-c", PEAK, *command], project.root, PYTHONPATH=repository)
        status, peaks[count] = map(int, ran.out.split())
        assert status == 0, ran.err
        assert packed(project).images.shape == (count, side, side, 3)
    grown = (peaks[1500] - peaks[300]) * 1024
    assert grown < 0.3 * 1200 * side * side * 3, peaks  # kB; the array grew by 92 MB
