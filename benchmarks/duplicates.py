"""How well near duplicates are found, how the search grows, and how far published test sets leak into training sets.

usage: python -m benchmarks.duplicates [--source ZIP] [--photos N] [--growth COUNT…] [--leakage FOLDER…] [--json]

Of each photo changed versions are made whose kinship is known, and look-alikes that are no copies. Recall is that of
one kind of change beside the untouched photos; precision is that of all pairs among all pictures at once.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageEnhance
from PIL.Image import Transpose

from pipeline.checking import hashing, properties
from pipeline.checking.duplicates import near_pairs, pair_components
from pipeline.config.datasets import NearDuplicates
from pipeline.images import decode, stored
from pipeline.images.errors import ImageError
from pipeline.images.sources import open_source
from pipeline.system.workers.pool import cores

MIRROR = Path(os.environ.get("DATA_MIRROR", "."))
PHOTOS = MIRROR / "cats-dogs/cats-dogs-sample.zip"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__)
    parser.add_argument("--source", type=Path, default=PHOTOS, help="photos (default: in DATA_MIRROR)")
    parser.add_argument("--photos", type=int, help="only the first so many")
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="numbers of hashes to search in")
    parser.add_argument("--leakage", type=Path, nargs="*", default=[], help="data sets with an official test set")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, Any] = constructed(photos(arguments.source, arguments.photos), NearDuplicates())
    figures["growth"] = [grown(count) for count in arguments.growth]
    figures["leakage"] = [leaked(folder) for folder in arguments.leakage]
    print(json.dumps(figures, indent=2) if arguments.json else in_words(figures))


def in_words(figures: dict[str, Any]) -> str:
    lines = ["| change | pictures | recall |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {row['pictures']:,} | {row['recall']:.4f} |" for kind, row in figures["recall"].items()]
    lines += [
        f"\nOf {figures['pairs']:,} pairs among {figures['pictures']:,} pictures {figures['wrong']:,} are no copies,"
        f" {figures['look_alikes']:,} of them look-alikes of one photo: precision {figures['precision']:.5f}.",
        f"Pairs among the untouched photos: {figures['originals'] or 'none'}",
    ]
    if figures["growth"]:
        lines += ["\n| hashes | seconds | peak MB | pairs |", "| --- | --- | --- | --- |"]
    for row in figures["growth"]:
        lines.append(f"| {row['hashes']:,} | {row['seconds']:.1f} | {row['peak_mb']:.0f} | {row['pairs']:,} |")
    if figures["leakage"]:
        lines += [
            "\n| data set | train | test | equal in train | nearly equal in train |",
            "| --- | --- | --- | --- | --- |",
        ]
    for row in figures["leakage"]:
        exact, near = (f"{row[kind]} ({100 * row[kind] / row['test']:.2f} %)" for kind in ("exact", "near"))
        lines.append(f"| {row['name']} | {row['train']:,} | {row['test']:,} | {exact} | {near} |")
    return "\n".join(lines)


# Changed photos


def constructed(photos: list[tuple[str, bytes]], params: NearDuplicates) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        versions = np.stack(pool.map(all_versions, [data for _, data in photos], chunksize=8), axis=1)
    names = ["original", *changes(), *look_alikes()]
    untouched = versions[0]
    originals = near_pairs(untouched, params)
    alone = np.setdiff1d(np.arange(len(photos)), originals)  # of the others it is not known what is a copy
    recall: dict[str, Any] = {}
    for name, changed in zip(names, versions, strict=True):
        if name in changes():
            group = pair_components(
                2 * len(alone), near_pairs(np.concatenate([untouched[alone], changed[alone]]), params)
            )
            found = group[: len(alone)] == group[len(alone) :]
            recall[name] = {"pictures": len(found), "recall": float(found.mean())}

    everything = versions[:, alone].reshape(-1, *untouched.shape[1:])
    pairs = near_pairs(everything, params)
    version, photo = np.divmod(pairs, len(alone))
    no_copy = (version > len(changes())).any(1)
    wrong = no_copy | (photo[:, 0] != photo[:, 1])
    return {
        "recall": recall,
        "pictures": len(everything),
        "pairs": len(pairs),
        "wrong": int(wrong.sum()),
        "look_alikes": int((wrong & (photo[:, 0] == photo[:, 1])).sum()),
        "precision": float(1 - wrong.mean()) if len(pairs) else 1.0,
        "originals": [[photos[one][0], photos[other][0]] for one, other in originals],
    }


def photos(source: Path, most: int | None) -> list[tuple[str, bytes]]:
    """Paths and contents of the photos that can be decoded."""
    found = []
    for path, content in contents(source):
        try:
            decode.decode(content, path)
        except ImageError:
            continue
        found.append((path, content))
        if len(found) == most:
            break
    return found


def contents(source: Path) -> Iterator[tuple[str, Any]]:
    for item, content in open_source(source).read():
        yield item.path, stored.read(content)


def all_versions(data: bytes) -> np.ndarray:
    """Fingerprints (V, SIDE, SIDE) of a photo, its changed versions and its look-alikes."""
    photo = decode.upright(decode.decode(data, "").image, channels=3)
    versions = [change(photo) for change in (*changes().values(), *look_alikes().values())]
    return np.stack([fingerprint(data), *(fingerprint(version) for version in versions)])


def fingerprint(data: bytes | np.ndarray) -> np.ndarray:
    """As the stage `check` makes it."""
    return hashing.fingerprint(properties.reduced(decode.upright_pixels(decode.decode(data, ""))))


def changes() -> dict[str, Callable[[Image.Image], bytes]]:
    """What a copy may have gone through."""
    made: dict[str, Callable[[Image.Image], bytes]] = {}
    for quality in (30, 50, 70, 95):
        made[f"JPEG, quality {quality}"] = lambda photo, quality=quality: jpeg(photo, quality)
    for percent in (50, 75, 125, 150):
        made[f"resized to {percent} %"] = lambda photo, percent=percent: plain(resized(photo, percent))
        made[f"resized to {percent} %, JPEG 50"] = lambda photo, percent=percent: jpeg(resized(photo, percent), 50)
    sides = {"left": (5, 0, 0, 0), "top": (0, 5, 0, 0), "right": (0, 0, 5, 0), "bottom": (0, 0, 0, 5)}
    for side, cut in sides.items():
        made[f"5 % cut off, {side}"] = lambda photo, cut=cut: plain(cropped(photo, *cut))
    made["5 % cut off, centered"] = lambda photo: plain(cropped(photo, 2.5, 2.5, 2.5, 2.5))
    made["5 % cut off each side"] = lambda photo: plain(cropped(photo, 5, 5, 5, 5))
    made["up to 5 % cut off each side, 75 %, JPEG 50"] = lambda photo: jpeg(resized(cut_at_random(photo), 75), 50)
    for turn in ("FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "ROTATE_90", "ROTATE_180", "ROTATE_270"):
        name = turn.lower().replace("_", " ")
        made[name] = lambda photo, turn=turn: plain(photo.transpose(Transpose[turn]))
    made["flip left right, 75 %, JPEG 50"] = lambda photo: jpeg(
        resized(photo.transpose(Transpose.FLIP_LEFT_RIGHT), 75), 50
    )
    for percent in (90, 110):
        made[f"brightness {percent} %"] = lambda photo, percent=percent: plain(
            ImageEnhance.Brightness(photo).enhance(percent / 100)
        )
        made[f"contrast {percent} %"] = lambda photo, percent=percent: plain(
            ImageEnhance.Contrast(photo).enhance(percent / 100)
        )
    made["gray"] = lambda photo: plain(photo.convert("L"))
    return made


def look_alikes() -> dict[str, Callable[[Image.Image], bytes]]:
    """Other pictures of the same thing before the same background."""
    return {
        "left half": lambda photo: plain(cropped(photo, 0, 0, 50, 0)),
        "right half": lambda photo: plain(cropped(photo, 50, 0, 0, 0)),
        "upper half": lambda photo: plain(cropped(photo, 0, 0, 0, 50)),
        "lower half": lambda photo: plain(cropped(photo, 0, 50, 0, 0)),
        "zoomed in": lambda photo: plain(cropped(photo, 15, 15, 15, 15)),
    }


def plain(photo: Image.Image) -> bytes:
    return encoded(photo, "BMP")


def jpeg(photo: Image.Image, quality: int) -> bytes:
    return encoded(photo, "JPEG", quality=quality)


def encoded(photo: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, kind, **options)
    return stream.getvalue()


def resized(photo: Image.Image, percent: float) -> Image.Image:
    size = (max(1, round(side * percent / 100)) for side in photo.size)
    return photo.resize(tuple(size), Image.Resampling.LANCZOS)


def cropped(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """With so many percent of its width and height cut off."""
    width, height = photo.size
    return photo.crop(
        (
            round(width * left / 100),
            round(height * top / 100),
            round(width * (1 - right / 100)),
            round(height * (1 - bottom / 100)),
        )
    )


def cut_at_random(photo: Image.Image) -> Image.Image:
    seed = int.from_bytes(hashing.pixel_hash(np.asarray(photo)).encode()[:4], "big")
    return cropped(photo, *np.random.default_rng(seed).uniform(0, 5, 4))


# The search alone


def grown(count: int) -> dict[str, Any]:
    """Seconds and peak memory of a search among made-up pictures, one in ten a noisy copy, one in a hundred blank."""
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder:
        path = Path(folder, "fingerprints")
        shape = (count, hashing.SIDE, hashing.SIDE)
        fingerprints = np.memmap(path, np.uint8, "w+", shape=shape)
        for start in range(0, count, 10_000):
            part = fingerprints[start : start + 10_000]
            part[:] = made_up(len(part), start)
        fingerprints.flush()
        with PeakMemory() as memory:
            start_time = time.perf_counter()
            pairs = near_pairs(np.memmap(path, np.uint8, "r", shape=shape), NearDuplicates())
            seconds = time.perf_counter() - start_time
    return {"hashes": count, "seconds": seconds, "peak_mb": memory.peak_mb, "pairs": len(pairs)}


def made_up(count: int, seed: int) -> np.ndarray:
    """(count, SIDE, SIDE) uint8 with the spectrum of natural pictures: amplitude falls with frequency."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: hashing.SIDE, : hashing.SIDE]
    amplitude = (1 / np.hypot(rows, columns).clip(1)).astype(np.float32)
    amplitude[0, 0] = 0
    spectra = random.standard_normal((count, hashing.SIDE, hashing.SIDE), np.float32) * amplitude
    copies = count // 10
    spectra[:copies] = spectra[copies : 2 * copies] * (1 + 0.02 * random.standard_normal((copies, 1, 1), np.float32))
    every = hashing.cosines(hashing.SIDE, hashing.SIDE).astype(np.float32)
    pictures = every.T @ spectra @ every
    pictures[-(count // 100) :] = 0
    pictures *= 50 / pictures.std((1, 2), keepdims=True).clip(1e-3)
    return (128 + pictures).clip(0, 255).astype(np.uint8)


class PeakMemory:
    """Samples what this process has of its own, without mapped files."""

    def __enter__(self) -> PeakMemory:
        self.peak_mb, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self) -> None:
        process = psutil.Process()
        while not self.done.wait(0.02):
            memory = process.memory_info()
            self.peak_mb = max(self.peak_mb, (memory.rss - memory.shared) / 1024**2)

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


# Published test sets


def leaked(folder: Path) -> dict[str, Any]:
    """How many test images of a data set are equal, or nearly equal, to one of its training images."""
    sides, hashes, fingerprints = [], [], []
    for item, content in open_source(folder).read():
        seen = decode.upright_pixels(decode.decode(stored.read(content), item.path))
        sides.append(item.split == "test")
        hashes.append(hashing.pixel_hash(seen))
        fingerprints.append(hashing.fingerprint(properties.reduced(seen)))
    test = np.array(sides)
    _, first, content_number = np.unique(hashes, return_index=True, return_inverse=True)
    group = pair_components(len(first), near_pairs(np.stack(fingerprints)[first], NearDuplicates()))[content_number]
    in_train = test & np.isin(content_number, content_number[~test])
    near_train = test & np.isin(group, group[~test]) & ~in_train
    return {
        "name": folder.name,
        "train": int((~test).sum()),
        "test": int(test.sum()),
        "exact": int(in_train.sum()),
        "near": int(near_train.sum()),
    }


if __name__ == "__main__":
    main()
