"""Stage `pack`: decode every image once and write all of them as one array that can be memory-mapped.

It packs whatever `check` could decode, also images that were quarantined or have no class: when a person's decision
brings one back, or another split moves it, nothing is decoded again.
"""

from __future__ import annotations

from pipeline.system.entry import run_stage

import hashlib
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import params
from pipeline.images import stored
from pipeline.images.decode import Preprocessing, lost_by_cropping
from pipeline.images.errors import ImageError
from pipeline.images.sources import Source, open_source
from pipeline.images.stored import Content, Problem
from pipeline.images.tables import read_columns, read_max_pixels
from pipeline.system import workers
from pipeline.system.console import UserError, first_few, progress, say
from pipeline.system.memory import MOST_PIXELS
from pipeline.system.outputs import atomic_write, write_json

HEAVY_CROP = 0.4  # of an image's area that is cut off; a square of a 3:2 photo costs 0.33, of a 16:9 photo 0.44
MANY = 0.05  # of the images: a warning where cropping takes so much of more of them
NAMED = 10  # classes, in a message
RESIZE = {
    "crop": "shorter side to fit, with antialiasing; the center is cut out",
    "pad": "whole image to fit, with antialiasing; centered on black",
    "stretch": "both sides to fit, with antialiasing; the aspect ratio changes",
}


class PackedImage(NamedTuple):
    pixels: NDArray[np.uint8]  # (height, width, channels)
    lost: float  # fraction of the image that cropping cuts off


def main(name: str) -> None:
    workers.warm_up("pipeline.images.decode")
    dataset = params.load().dataset(name)
    table = Path("data/checked", f"{name}.parquet")
    checked, classes = read_columns(table, ["path", "pixel_hash"])
    paths = checked["path"].filter(checked["pixel_hash"].is_valid()).to_pylist()
    if not paths:
        raise UserError(f"{name}: none of {len(checked)} files can be decoded: see reports/{name}/check.json")
    source = open_source(dataset.source, dataset.check.classes)
    height, width = dataset.pack.height_width
    channels, fit, interpolation = dataset.pack.channels, dataset.pack.fit, dataset.pack.interpolation
    shape = (len(paths), height, width, channels)
    how = Preprocessing(height, width, channels, interpolation, fit, dataset.pack.color_profile, read_max_pixels(table))

    with atomic_write(Path("data/packed", name)) as folder:
        folder.mkdir()
        sha256, sums, lost = write_images(folder / "images.npy", source, paths, shape, how)
        heavy = int((lost > HEAVY_CROP).sum()) if fit == "crop" else 0
        index = pa.table({"path": paths, **sums})
        pq.write_table(index, folder / "index.parquet", write_page_checksum=True)
        write_json(
            folder / "meta.json",
            {
                "images": len(paths),
                "height": height,
                "width": width,
                "channels": channels,
                "sha256": sha256,
                "heavy_crop": heavy,
                "preprocessing": {
                    "orientation": "exif applied",
                    "transparency": "on white",
                    "fit": fit,
                    "resize": RESIZE[fit],
                    "interpolation": interpolation,
                    "color_profile": how.color_profile,
                    **({"max_pixels": how.max_pixels} if how.max_pixels != MOST_PIXELS else {}),
                },
            },
        )
    say(f"{name}: {' × '.join(map(str, shape))} uint8, {np.prod(shape, dtype=np.int64) / 1e6:.1f} MB")
    say(f"{name}: {len(classes)} {'class' if len(classes) == 1 else 'classes'}: {first_few(classes, NAMED)}")
    if heavy > MANY * len(paths):
        say(
            f"{name}: warning: heavy_crop: cropping to {height} × {width} cuts more than {HEAVY_CROP:.0%} off {heavy}"
            f" of {len(paths)} images; datasets.{name}.pack.fit: pad keeps them whole, stretch changes their shape"
        )


def write_images(
    path: Path, source: Source, wanted: list[str], shape: tuple[int, int, int, int], how: Preprocessing
) -> tuple[str, dict[str, NDArray[np.int64]], NDArray[np.float32]]:
    """Write the wanted images, in their order, as one .npy file of `shape` (N, H, W, C), uint8.

    Sequential writes keep memory flat, and a full disk is an error here (a sparse memory map would be killed by
    SIGBUS). Returns the sha256 of all pixels; per channel, `sum_0` and `sum_of_squares_0` and so on: for each image
    the sum over its pixels of the values and of their squares, (N,) int64; and what fraction of each image cropping
    cuts off, (N,).
    """
    image_size = int(np.prod(shape[1:]))
    lost = np.empty(shape[0], np.float32)
    sums, sums_of_squares = np.empty((2, shape[3], shape[0]), np.int64)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        images = workers.ordered_map(
            partial(pixels, how=how),
            contents(source, wanted),
            lambda task: stored.size(task[1]) + image_size,  # a small file can become a large array
            crashed,
            itemgetter(0),
        )
        for row, image in enumerate(progress(images, total=len(wanted), unit=" images")):
            if isinstance(image, Problem):
                raise UserError(f"{source_changed(wanted[row])} ({image.reason})")
            file.write(image.pixels.data)
            digest.update(image.pixels.data)
            lost[row] = image.lost
            values = image.pixels.reshape(-1, shape[3]).astype(np.int64)
            sums[:, row], sums_of_squares[:, row] = values.sum(0), (values**2).sum(0)
    columns = {f"sum_{channel}": sums[channel] for channel in range(shape[3])}
    columns |= {f"sum_of_squares_{channel}": sums_of_squares[channel] for channel in range(shape[3])}
    return digest.hexdigest(), columns, lost


def contents(source: Source, wanted: list[str]) -> Iterator[tuple[str, Content]]:
    """Each wanted path with its stored content. Raises UserError if the source has not these, in this order."""
    paths = set(wanted)
    expected = iter(wanted)
    for item, content in source.read(paths.__contains__):
        if item.path != (path := next(expected)):
            raise UserError(source_changed(path))
        yield item.path, content
    if path := next(expected, ""):
        raise UserError(source_changed(path))


def source_changed(path: str) -> str:
    return f"{path} is no longer as `check` saw it: the source has changed; run dvc repro"


def pixels(tasks: list[tuple[str, Content]], how: Preprocessing) -> Iterator[PackedImage | Problem]:
    """Each image as (height, width, channels) uint8. Runs in a worker process."""
    for (path, _), content in zip(tasks, stored.read_all(content for _, content in tasks), strict=True):
        try:
            image = how.upright(content, path)
        except ImageError as error:
            yield Problem(error.code, error.reason)
        else:
            yield PackedImage(how.scaled(image), lost_by_cropping(image, how.height, how.width))


def crashed(task: tuple[str, Content], reason: str) -> Problem:
    return Problem("unreadable", reason)


if __name__ == "__main__":
    run_stage("pack", main, "DATASET", __doc__)
