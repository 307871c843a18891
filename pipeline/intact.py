"""Opens the files of packed data and of models; of a damaged one, one line that names it and says what to do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.console import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def damaged(file: Path, reason: object, remedy: str) -> UserError:
    return UserError(f"{file} is damaged ({' '.join(str(reason).split())[:200]}): {remedy}")


def missing(file: Path, remedy: str) -> UserError:
    return UserError(f"{file} is not there: {remedy}")


def read_description(file: Path, remedy: str) -> dict[str, Any]:
    """A JSON object. Raises UserError for a file that is none, or is not there."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise missing(file, remedy) from None
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"no JSON: {error}", remedy) from None
    if not isinstance(value, dict):
        raise damaged(file, f"found a {type(value).__name__}; expected a JSON object", remedy)
    return value


def fault(sizes: dict[str, Any], classes: Any, mean: Any, std: Any) -> str | None:
    """What can't be true of images of these sizes, `channels` among them, of their classes and their statistics."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            return f"{name} = {size!r}; expected a whole number above 0"
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return "expected a list of names as classes"
    if len(set(classes)) < len(classes):
        return "a class is listed twice"
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0)):
        if (
            not isinstance(values, list)
            or len(values) != sizes["channels"]
            or not all(type(value) in (int, float) and least < value < math.inf for value in values)
        ):
            above = " above 0" if name == "std" else ""
            return f"{name} = {values!r}; expected a number{above} for each of {sizes['channels']} channels"
    return None


def open_images(file: Path, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    """Map an array of uint8 into memory. Raises UserError unless the file holds one of that shape, and no more."""
    try:
        images: np.ndarray = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError:
        raise missing(file, remedy) from None
    except OSError:
        raise
    except Exception as error:  # a header is Python source, and reading it raises whatever it likes
        raise damaged(file, error, remedy) from None
    if images.shape != shape or images.dtype != np.uint8 or not images.flags.c_contiguous:
        found, wanted = (" × ".join(map(str, each)) for each in (images.shape, shape))
        raise damaged(file, f"found {found} {images.dtype}; expected {wanted} uint8", remedy)
    if surplus := file.stat().st_size - images.offset - images.nbytes:  # type: ignore[attr-defined]
        raise damaged(file, f"{surplus} bytes too long", remedy)
    return images


def read_table(file: Path, columns: dict[str, type], count: int, remedy: str) -> pa.Table:
    """Columns of str or float. Raises UserError unless the parquet file has `count` rows of them, without nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pq.read_table would import pandas, for half a second
        table = pq.ParquetFile(file, page_checksum_verification=True).read(list(columns))
        table.validate(full=True)
    except FileNotFoundError:
        raise missing(file, remedy) from None
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # of the disk, not of arrow
            raise
        raise damaged(file, error, remedy) from None
    for name, kind in columns.items():
        if name not in table.column_names:
            raise damaged(file, f"it has no column {name}", remedy)
        found = table.schema.field(name).type
        is_kind = (
            pa.types.is_float64(found)
            if kind is float
            else pa.types.is_string(found) or pa.types.is_large_string(found)
        )
        if not is_kind or table[name].null_count:
            raise damaged(file, f"its column {name} is not all {kind.__name__}", remedy)
    if len(table) != count:
        raise damaged(file, f"{len(table):,} rows; expected one for each of {count:,} images", remedy)
    return table
