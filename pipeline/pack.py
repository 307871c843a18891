"""Stage `pack`: decode every usable image once and write all of them as one array that can be memory-mapped."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import hashlib
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import params
from pipeline.images import stored
from pipeline.images.decode import ImageError, decode, to_size, upright
from pipeline.images.sources import Source, open_source
from pipeline.images.stored import Content, Problem
from pipeline.images.tables import read_manifest
from pipeline.system import workers
from pipeline.system.console import UserError, progress, say
from pipeline.system.outputs import atomic_write, write_json


def main(name: str) -> None:
    workers.warm_up("pipeline.images.decode")
    dataset = params.load().dataset(name)
    table, classes = read_manifest(Path("data/splits", f"{name}.parquet"))
    source = open_source(dataset.source, dataset.classes)
    height, width = dataset.height_width
    shape = (len(table), height, width, dataset.channels)

    with atomic_write(Path("data/packed", name)) as folder:
        folder.mkdir()
        statistics = write_images(folder / "images.npy", source, list(table.path), list(table.split == "train"), shape)
        table.to_parquet(folder / "index.parquet", index=False, write_page_checksum=True)
        write_json(
            folder / "meta.json",
            {
                "images": len(table),
                "classes": classes,
                "height": height,
                "width": width,
                "channels": dataset.channels,
                **statistics,
                "preprocessing": {
                    "orientation": "exif applied",
                    "transparency": "on white",
                    "resize": "shorter side to fit, bilinear with antialiasing",
                    "crop": "centre",
                },
            },
        )
    say(f"{name}: {' × '.join(map(str, shape))} uint8, {np.prod(shape, dtype=np.int64) / 1e6:.1f} MB")


def write_images(
    path: Path, source: Source, wanted: list[str], trains: list[bool], shape: tuple[int, int, int, int]
) -> dict[str, Any]:
    """Write the wanted images, in their order, as one .npy file of `shape` (N, H, W, C), uint8.

    Sequential writes keep memory flat, and a full disk is an error here (a sparse memory map would be killed by
    SIGBUS). Returns mean and std per channel over the images that train, in [0, 1], and the sha256 of all pixels.
    """
    image_size = int(np.prod(shape[1:]))  # counts as well: small files can become large arrays
    to_pixels = partial(pixels, height=shape[1], width=shape[2], channels=shape[3])
    total = np.zeros(shape[3], np.int64)  # exact: sums of integers do not depend on their order
    total_of_squares = np.zeros(shape[3], np.int64)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        images = workers.ordered_map(
            to_pixels, contents(source, wanted), lambda task: stored.size(task[1]) + image_size, crashed, itemgetter(0)
        )
        for id_, trains_, image in zip(
            wanted, trains, progress(images, total=len(wanted), unit=" images"), strict=True
        ):
            if isinstance(image, Problem):
                raise UserError(f"{source_changed(id_)} ({image.reason})")
            file.write(image)
            digest.update(image)
            if trains_:
                values = image.reshape(-1, shape[3]).astype(np.int64)
                total += values.sum(0)
                total_of_squares += (values**2).sum(0)
    count = sum(trains) * shape[1] * shape[2]
    mean = total / count
    std = np.sqrt(total_of_squares / count - mean**2)
    return {
        "mean": [round(value, 6) for value in (mean / 255).tolist()],
        "std": [max(round(value, 6), 1e-6) for value in (std / 255).tolist()],
        "sha256": digest.hexdigest(),
    }


def contents(source: Source, wanted: list[str]) -> Iterator[tuple[str, Content]]:
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


def pixels(tasks: list[tuple[str, Content]], height: int, width: int, channels: int) -> Iterator[np.ndarray | Problem]:
    """Each image as (height, width, channels) uint8. Runs in a worker process."""
    for (path, _), content in zip(tasks, stored.read_all(content for _, content in tasks), strict=True):
        try:
            image = decode(content, path).image
        except ImageError as error:
            yield Problem(error.code, error.reason)
        else:
            yield np.ascontiguousarray(to_size(upright(image, channels), height, width))


def crashed(task: tuple[str, Content], reason: str) -> Problem:
    return Problem("unreadable", reason)


if __name__ == "__main__":
    run_stage("pack", main, "DATASET", __doc__)
