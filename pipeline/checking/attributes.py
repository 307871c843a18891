"""What is known of each image without looking at it: size, format, camera, name, position, light.

Kinds of attributes: those of the recording tell how a picture was taken and saved, those of the filing how its file was
named and listed. Neither should say anything about the class. Those of the picture, such as its brightness, may be what
the classes are about. The bytes of a file are of both (`detail`): they grow with quality and with what there is to see.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.images.tables import CHECKED, stage_of
from pipeline.system.readers import telling_damage

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 20_000  # images that are looked at, at most
STRETCHES = 20
SEED = 0
LEVELS = 64  # values of text that count as values of their own: the most frequent ones
REST = "another"
DIGITS = re.compile(r"[0-9]+")
Kind = Literal["recording", "filing", "detail", "picture"]
COLUMNS = [
    *("path", "label", "official_split", "width", "height", "bytes", "format", "mode", "camera"),
    *("brightness", "contrast", "sharpness", "color", "phash", "group", "listed_group"),
]


class Attribute(NamedTuple):
    """One value for each of N images: a number, or the position of a text in `levels`."""

    name: str  # as in a sentence
    kind: Kind
    unit: str
    values: NDArray[np.float64]  # (N,)
    levels: list[str]  # empty for numbers

    @property
    def varies(self) -> bool:
        return len(self.values) > 0 and bool((self.values != self.values[0]).any())


def sample(path: Path) -> pa.Table:
    """COLUMNS and `row` of at most ROWS images that can be used, drawn from data/checked/NAME.parquet."""
    rows = usable_rows(path)
    if len(rows) > ROWS:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, ROWS, replace=False))
    return take(path, rows)


def stretches(path: Path) -> pa.Table:
    """As `sample`, but STRETCHES of the table, each of images that follow one another."""
    rows = usable_rows(path)
    if len(rows) > ROWS:
        starts = np.linspace(0, len(rows) - ROWS // STRETCHES, STRETCHES).astype(int)
        rows = rows[np.unique(starts[:, None] + np.arange(ROWS // STRETCHES))]
    return take(path, rows)


def usable_rows(path: Path) -> NDArray[np.int64]:
    """The rows of the images that are not quarantined."""
    import pyarrow.parquet as pq

    with telling_damage(path, stage_of(path)):
        pieces = pq.ParquetFile(path, page_checksum_verification=True).iter_batches(columns=["status"])
        usable = [np.array([status != "quarantined" for status in piece[0].to_pylist()], bool) for piece in pieces]
    return np.flatnonzero(np.concatenate([np.zeros(0, bool), *usable]))


def take(path: Path, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows, given in ascending order. The table is read in pieces, so that memory does not grow with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([CHECKED.field(name) for name in COLUMNS])
    taken, start = [schema.empty_table()], 0
    with telling_damage(path, stage_of(path)):
        for piece in pq.ParquetFile(path, page_checksum_verification=True).iter_batches(columns=COLUMNS):
            inside = rows[(rows >= start) & (rows < start + len(piece))] - start
            part = pa.Table.from_batches([piece]).take(pa.array(inside.tolist(), pa.int64()))
            taken.append(part.select(COLUMNS).cast(schema))
            start += len(piece)
    return pa.concat_tables(taken).append_column("row", pa.array(rows.tolist(), pa.int64()))


def attributes(table: pa.Table) -> list[Attribute]:
    """The attributes of the images of `sample` that are not the same for all of them."""
    return [attribute for attribute in every_attribute(table) if attribute.varies] if len(table) else []


def every_attribute(table: pa.Table) -> Iterator[Attribute]:
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
    width, height, size = (np.array(columns[name], np.float64) for name in ("width", "height", "bytes"))
    yield number("size", "recording", np.sqrt(width * height), "pixels a side")
    yield number("aspect ratio", "recording", width / height, "width ÷ height")
    yield text("format", "recording", columns["format"])
    yield text("color mode", "recording", columns["mode"])
    yield number("bytes", "detail", size)
    yield number("bytes per pixel", "detail", size / (width * height))
    yield text("camera", "recording", [value or "unknown" for value in columns["camera"]])
    folders, names = zip(*(path.rsplit("/", 1) if "/" in path else ("", path) for path in columns["path"]), strict=True)
    bare = [bare_name(name, label) for name, label in zip(names, columns["label"], strict=True)]
    yield text("beginning of the file name", "filing", [beginning(name) for name in bare])
    yield number("length of the file name", "filing", [len(DIGITS.sub("0", name)) for name in bare])
    for name, values in (("number in the file name", numbers(bare)), ("position in the source", columns["row"])):
        if not is_listing(values, columns["label"], folders):
            yield number(name, "filing", values)
    for name in ("brightness", "contrast", "sharpness"):
        yield number(name, "picture", columns[name])
    yield text("color", "picture", ["color" if value else "gray" for value in columns["color"]])


def number(name: str, kind: Kind, values: Any, unit: str = "") -> Attribute:
    return Attribute(name, kind, unit, np.asarray(values, np.float64), [])


def text(name: str, kind: Kind, values: list[str]) -> Attribute:
    """The most frequent values are levels, the first of them the most frequent; all others are REST."""
    counts = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
    levels = [value for value, _ in counts[:LEVELS]] + [REST] * (len(counts) > LEVELS)
    position = {value: place for place, value in enumerate(levels)}
    return Attribute(
        name, kind, "", np.array([position.get(value, len(levels) - 1) for value in values], float), levels
    )


def bare_name(name: str, label: str) -> str:
    """The name of a file without suffix and without its class: `cat.12.jpg` says no more than the folder `cat`."""
    stem = label_pattern(label).sub("", name.rpartition(".")[0] or name, count=1)
    initials = beginning(stem).rstrip("-_. ")
    return stem[len(initials) :] if initials and label.casefold().startswith(initials.casefold()) else stem


@cache
def label_pattern(label: str) -> re.Pattern[str]:
    """Finds the name of a class, whatever separates its words; but not one that is a number inside of another."""
    words = [re.escape(word) for word in re.findall(r"[^\W_]+", label)] or [re.escape(label)]
    before, after = (r"(?<!\d)" if label[:1].isdigit() else ""), (r"(?!\d)" if label[-1:].isdigit() else "")
    return re.compile(before + r"[\W_]*".join(words) + after, re.IGNORECASE)


def beginning(name: str) -> str:
    """What is before the first digit."""
    return name[: found.start()] if (found := DIGITS.search(name)) else name


def numbers(names: list[str]) -> list[float]:
    """The last number in each name; -1 where there is none."""
    return [float(digits[-1][-15:]) if (digits := DIGITS.findall(name)) else -1.0 for name in names]


def is_listing(values: list[float], labels: list[str], folders: Iterable[str]) -> bool:
    """Whether the values only count through one folder of a class after the other, as every listing of folders does.

    A folder may come twice: the links of a tar are listed after everything else.
    """
    ordered = [label for _, label in sorted(zip(values, labels, strict=True))]
    runs = 1 + sum(one != other for one, other in pairwise(ordered))
    return runs <= 2 * len(set(zip(folders, labels, strict=True)))
