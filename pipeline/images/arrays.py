"""Formats that hold many images in one array: MNIST's idx files and CIFAR-10's binary version."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.console import UserError
from pipeline.images.items import Item
from pipeline.images.stored import Content

IDX_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane


class Arrays:
    """Images that are decoded already: id `<split>/<position>`, class by number."""

    classes: list[str]

    def __init__(self, splits: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str], where: Path) -> None:
        self.splits = splits
        self.classes = classes
        self.count = 0
        self.per_class: Counter[str | None] = Counter()
        digest = hashlib.sha256()
        for split, (images, labels) in splits.items():
            if len(images) != len(labels):
                raise UserError(f"{where}: {len(images)} images but {len(labels)} labels for {split}")
            if len(labels) and labels.max() >= len(classes):
                raise UserError(f"{where}: label {labels.max()} in {split}, but only {len(classes)} class names")
            self.count += len(images)
            self.per_class.update(classes[label] for label in labels.tolist())
            digest.update(images.data)
            digest.update(labels.data)
        self.fingerprint = digest.hexdigest()
        if not self.count:
            raise UserError(f"{where} holds no images")

    def read(self, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Item, Content]]:
        for split, (images, labels) in self.splits.items():
            for position, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                path = f"{split}/{position:05d}"
                if wanted(path):
                    yield Item(path, self.classes[label], split), image


def is_idx(files: list[Path]) -> bool:
    return any("-idx3-ubyte" in file.name for file in files)


class IdxFiles(Arrays):
    """MNIST's format (http://yann.lecun.com/exdb/mnist): `<split>-images-idx3-ubyte[.gz]` and its labels."""

    def __init__(self, files: list[Path], class_names: list[str] | None) -> None:
        splits = {}
        for file in files:
            prefix, separator, _ = file.name.partition("-images-idx3-ubyte")
            if not separator:
                continue
            labels = next((f for f in files if f.name.startswith(f"{prefix}-labels-idx1-ubyte")), None)
            if labels is None or prefix not in IDX_SPLITS:
                raise UserError(f"{file}: expected train or t10k images with a file of labels beside it")
            splits[IDX_SPLITS[prefix]] = (read_idx(file, dimensions=3), read_idx(labels, dimensions=1))
        ordered = {split: splits[split] for split in sorted(splits, reverse=True)}  # train first
        count = 1 + max((int(labels.max(initial=0)) for _, labels in ordered.values()), default=0)
        super().__init__(ordered, class_names or [str(number) for number in range(count)], files[0].parent)


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or not, as a uint8 array of that many dimensions.

    Raises UserError for another magic number or a wrong length.
    """
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{file}: not a whole gzip file ({error}); fetch it again") from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{file}: not an idx file of {dimensions}-dimensional unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if 0 in shape[1:]:
        raise UserError(f"{file}: its header says {shape}: images without pixels")
    if len(data) - header != np.prod(shape, dtype=np.int64):
        raise UserError(f"{file}: {len(data) - header} bytes of data, but its header says {shape}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class CifarBinary(Arrays):
    """CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html), read from its closed archive."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file, tarfile.open(fileobj=file) as archive:
            contents = {
                PurePosixPath(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive.getmembers()
                if member.isreg() and member.name.endswith((".bin", ".meta.txt"))
            }
        train = b"".join(contents[name] for name in sorted(contents) if name.startswith("data_batch_"))
        names = contents.get("batches.meta.txt", b"").decode("ascii", "replace").split()
        splits = {"train": train, "test": contents.get("test_batch.bin", b"")}
        if any(len(records) % CIFAR_RECORD for records in splits.values()) or not names:
            raise UserError(f"{path}: not CIFAR-10's binary version: expected whole records and batches.meta.txt")
        super().__init__({split: cifar_records(records) for split, records in splits.items()}, names, path)


def cifar_records(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Split N records into images (N, 32, 32, 3) and labels (N,), both uint8."""
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].copy()
