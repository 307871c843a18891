"""Read the files that stages write. A damaged or missing one is a UserError that says how to restore it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.system.console import UserError, one_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# Arrow's names of types
KINDS: dict[type, tuple[str, ...]] = {
    str: ("string", "large_string"),
    float: ("double", "float"),
    int: ("int64", "int32"),
}


def damaged(file: Path, reason: object, stage: str) -> UserError:
    """The error for a damaged file that `stage` wrote. It may be a link to DVC's cache, which then is damaged too."""
    said = one_line(reason)
    return UserError(
        f"{file} is damaged ({said}): remove it and run dvc repro {stage}, or dvc pull it;"
        f" if it comes back damaged, dvc repro -f -s {stage}"
    )


def missing(file: Path, stage: str) -> UserError:
    """The error for a missing file that `stage` writes."""
    return UserError(f"{file} is not there: run dvc repro {stage}, or dvc pull it")


def read_json(file: Path, stage: str) -> dict[str, Any]:
    """Read a JSON object that `stage` wrote. Raises UserError for a file that is missing or holds anything else."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise missing(file, stage) from None
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"no JSON: {error}", stage) from None
    if not isinstance(value, dict):
        raise damaged(file, f"found a {type(value).__name__}; expected a JSON object", stage)
    return value


def read_metrics(name: str) -> dict[str, Any]:
    """Read the metrics.json of an experiment.

    Raises UserError unless it holds numbers for val and test, and counts of parameters.
    """
    file, stage = Path("reports", name, "metrics.json"), f"evaluate@{name}"
    metrics = read_json(file, stage)
    for split in ("val", "test"):
        values = metrics.get(split, {})
        if not isinstance(values, dict) or not all(isinstance(value, int | float) for value in values.values()):
            raise damaged(file, f"{split} holds something else than numbers", stage)
    for count in ("parameters", "trainable_parameters"):
        if type(metrics.get(count)) is not int:
            raise damaged(file, f"it has no number of {count.replace('_', ' ')}", stage)
    return metrics


def size_fault(sizes: dict[str, object]) -> str | None:
    """Why sizes by name are wrong, or None: each has to be a whole number above 0."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            return f"{name} = {size!r}; expected a whole number above 0"
    return None


def class_fault(classes: object) -> str | None:
    """Why a list of classes is wrong, or None."""
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return "expected a list of names as classes"
    if any(name.encode(errors="replace").decode() != name for name in classes):
        return "the name of a class is no Unicode"
    if len(set(classes)) < len(classes):
        return "a class is listed twice"
    return None


def statistics_fault(mean: object, std: object, channels: int) -> str | None:
    """Why the mean and standard deviation of each channel are wrong, or None."""
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0)):
        if (
            not isinstance(values, list)
            or len(values) != channels
            or not all(type(value) in (int, float) and least < value < math.inf for value in values)
        ):
            above = " above 0" if name == "std" else ""
            return f"{name} = {values!r}; expected a number{above} for each of {channels} channels"
    return None


def open_images(file: Path, shape: tuple[int, ...], stage: str) -> NDArray[np.uint8]:
    """Map a .npy file of uint8 into memory. Raises UserError unless it holds an array of this shape and no more."""
    import numpy as np

    try:
        with np.errstate(over="raise"):  # of sizes whose product has more than 64 bits
            images: NDArray[np.uint8] = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError:
        raise missing(file, stage) from None
    except OSError:
        raise
    except Exception as error:  # a header is Python source; reading a damaged one raises anything
        raise damaged(file, error, stage) from None
    if images.shape != shape or images.dtype != np.uint8 or not images.flags.c_contiguous:
        found, wanted = (" × ".join(map(str, each)) for each in (images.shape, shape))
        raise damaged(file, f"found {found} {images.dtype}; expected {wanted} uint8, as meta.json says", stage)
    if surplus := file.stat().st_size - images.offset - images.nbytes:  # type: ignore[attr-defined]
        raise damaged(file, f"{surplus} bytes too long", stage)
    return images


def read_table(file: Path, columns: dict[str, type], stage: str, nullable: bool = False) -> pa.Table:
    """Read columns of str, float or int from a parquet file.

    Raises UserError unless it has them all, without nulls unless they are `nullable`.
    """
    import pyarrow.parquet as pq

    with telling_damage(file, stage):
        # pq.read_table would import pandas, which takes half a second
        table = pq.ParquetFile(file, page_checksum_verification=True).read(list(columns))
        table.validate(full=True)
        for name, kind in columns.items():
            if name not in table.column_names:
                raise ValueError(f"it has no column {name}")
            if (table[name].null_count and not nullable) or str(table[name].type) not in KINDS[kind]:
                raise ValueError(f"its column {name} is not all {kind.__name__}")
    return table.replace_schema_metadata()  # pandas would read its metadata, which may be damaged


def read_classes(file: Path, stage: str) -> list[str]:
    """Read the class list from the metadata of a parquet file. Raises UserError unless it has one."""
    import pyarrow.parquet as pq

    with telling_damage(file, stage):
        classes = classes_in(pq.read_schema(file))
        if reason := class_fault(classes):
            raise ValueError(reason)
        return classes


@contextmanager
def telling_damage(file: Path, stage: str) -> Iterator[None]:
    """Raises UserError where reading a parquet file in the block fails, because it is missing or damaged."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise missing(file, stage) from None
    # KeyError: a column is missing; ValueError: also for names that are not UTF-8
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if getattr(error, "errno", None):  # of the disk, not of arrow
            raise
        raise damaged(file, error, stage) from None


def classes_in(schema: pa.Schema) -> list[str]:
    """The class list in the metadata of a table; it may be empty. Raises ValueError unless there is one."""
    try:
        classes: list[str] = json.loads((schema.metadata or {})[b"classes"])
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"it has no list of classes: {error}") from None
    return classes
