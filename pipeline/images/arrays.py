"""Formats that hold many images in one array: MNIST's idx files and CIFAR-10's binary version."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.images import tars
from pipeline.images.folders import Folders
from pipeline.images.items import Item
from pipeline.images.stored import Content
from pipeline.system.console import UserError

IDX_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane
LARGEST_CIFAR = 1 << 30  # bytes; what is published has 184 million
CHUNK = 1 << 20  # bytes


class Arrays:
    """A source of images that are stored as pixels. The id of an image is `<split>/<position>`.

    `splits` has images (N, H, W) or (N, H, W, 3) and labels (N,), both uint8; a label is a position in `classes`.
    Raises UserError where they do not fit together, or where there are no images; `where` is named in the message.
    """

    classes: list[str]

    def __init__(
        self, splits: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]], classes: list[str], where: Path
    ) -> None:
        self.splits = splits
        self.classes = classes
        self.folders = Folders()
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


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped or not, as a uint8 array with this number of dimensions.

    No more is read than the header says. Raises UserError for another magic number, a wrong length or damaged gzip.
    """
    with file.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        data = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if zipped else raw)
        try:
            header = data.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise UserError(f"{file}: not an idx file of {dimensions}-dimensional unsigned bytes")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            if 0 in shape[1:]:
                raise UserError(f"{file}: its header says {shape}: images without pixels")
            values = read_up_to(data, math.prod(shape) + 1)  # a byte more, so that gzip compares its checksum
        except (EOFError, OSError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{file}: not a whole gzip file ({error}); fetch it again") from None
    if len(values) != math.prod(shape):
        found = "more" if len(values) > math.prod(shape) else len(values)
        raise UserError(f"{file}: {found} bytes of data, but its header says {shape}; fetch it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_up_to(file: IO[bytes], size: int) -> bytearray:
    """Read up to `size` bytes. Memory grows with what the file holds: a damaged header may ask for far more."""
    found = bytearray()
    while len(found) < size and (chunk := file.read(min(size - len(found), CHUNK))):
        found += chunk
    return found


class CifarBinary(Arrays):
    """CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html), read from its closed archive."""

    def __init__(self, path: Path) -> None:
        contents, size = {}, 0
        with path.open("rb") as file:
            archive, is_plain = tars.decompressed(file)
            for member in tars.members(archive, is_plain):
                if member.isreg() and not member.issparse() and member.name.endswith((".bin", ".meta.txt")):
                    size += member.size
                    if size > LARGEST_CIFAR:
                        raise UserError(f"{path}: not CIFAR-10's binary version: more than {LARGEST_CIFAR} bytes")
                    contents[PurePosixPath(member.name).name] = archive.read(member.size)
        train = b"".join(contents[name] for name in sorted(contents) if name.startswith("data_batch_"))
        names = contents.get("batches.meta.txt", b"").decode("ascii", "replace").split()
        splits = {"train": train, "test": contents.get("test_batch.bin", b"")}
        if any(len(records) % CIFAR_RECORD for records in splits.values()) or not names:
            raise UserError(f"{path}: not CIFAR-10's binary version: expected whole records and batches.meta.txt")
        if any("/" in name for name in names):  # no folder has one, and in a page `</script>` would end the script
            raise UserError(f"{path}: a class name in batches.meta.txt holds a slash; expected names as of folders")
        super().__init__({split: cifar_records(records) for split, records in splits.items()}, names, path)


def cifar_records(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split N records into images (N, 32, 32, 3) and labels (N,), both uint8."""
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].copy()
