"""`params.yaml` as typed objects, validated whole before any work starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.console import UserError
from pipeline.recipes import Experiment
from pipeline.recipes.strict import Address, Fraction, Seed, Strict, hint, shown

FILE = Path("params.yaml")
MOST_VALUES = 100_000
LONGEST_KEY = 100  # characters that an error shows
# What fsspec reads of other machines; it also knows addresses of this one, and those that lead from one into another
NETWORKS = (
    *("abfs", "adl", "az", "azure", "ftp", "gcs", "gdrive", "gs", "hdfs", "hf", "http", "https", "oss", "s3", "s3a"),
    *("sftp", "smb", "ssh", "webdav", "webdavs", "webhdfs"),
)
Pixels = Annotated[int, Field(gt=0, le=8192)]  # a side of a packed image


class PublishedFile(Strict):
    """One file of a data set as its publisher made it; at least one of the checksums must be known."""

    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    content_sha256: str | None = None  # of what is inside the gzip file, for mirrors that compressed it again

    @model_validator(mode="after")
    def has_a_checksum(self) -> PublishedFile:
        if not (self.md5 or self.sha256):
            raise ValueError("no checksum: expected md5 or sha256")
        return self


class Download(Strict):
    """Where published files are: folders to look in, in order, and what identifies each file."""

    mirrors: list[str]
    files: dict[str, PublishedFile]


def a_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{shown(pattern)} is no regular expression: {error}") from None
    return pattern


def a_source(source: str) -> str:
    if "://" in source and (source.partition("://")[0].lower() not in NETWORKS or "::" in source):
        raise ValueError(
            f"{shown(source)}: expected an address that fsspec can read over a network"
            f" ({', '.join(NETWORKS)}), or a path, without ://"
        )
    return source


class Split(Strict):
    """Fractions of the images; `test` and `val` count only where the publisher has no such set."""

    val: Fraction = 0.1
    test: Fraction = 0.2
    folds: Annotated[int, Field(ge=2)] | None = None  # instead of `val`: into how many parts the rest is cut …
    fold: Annotated[int, Field(ge=0)] = 0  # … and which of them validates
    group_by: Annotated[str, Field(min_length=1), AfterValidator(a_pattern)] | None = None  # sought in paths

    @model_validator(mode="after")
    def leaves_something_to_train_on(self) -> Split:
        if self.folds is None and self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on; expected below 1")
        return self

    @model_validator(mode="after")
    def validates_on_a_fraction_or_a_fold(self) -> Split:
        if self.folds is not None and "val" in self.model_fields_set:
            raise ValueError("val and folds exclude each other: a fold validates; expected one of them")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold = {self.fold}; expected 0 to {self.folds - 1}, of folds = {self.folds}")
        if self.folds is None and "fold" in self.model_fields_set:
            raise ValueError(f"fold = {self.fold} without folds; expected their number too")
        return self


Deviations = Annotated[float, Field(gt=0)]  # robust standard deviations


class Outliers(Strict):
    """How far from the median of the data set an image is called odd; null: never."""

    brightness: Deviations | None = 4
    contrast: Deviations | None = 4
    sharpness: Deviations | None = 4
    size: Deviations | None = 4
    aspect_ratio: Deviations | None = 4
    color: Annotated[float, Field(ge=0, le=0.5)] = 0.01  # largest share of grey images among coloured, or the reverse

    def of(self, name: str) -> float:
        limit: float | None = getattr(self, name)
        return float("inf") if limit is None else limit


class NearDuplicates(Strict):
    """How much two images may differ and still count as one."""

    distance: Annotated[int, Field(ge=0, le=8)] = 5  # bits of 64 between their perceptual hashes
    difference: Annotated[float, Field(gt=0)] = 1.0  # where they differ most, in standard deviations of their detail


class Dataset(Strict):
    """What to check, split and pack."""

    source: Annotated[Address, AfterValidator(a_source)]
    image_size: Pixels | list[Pixels]
    channels: Literal[1, 3] = 3
    split: Split = Split()
    classes: list[str] | None = None  # names for formats that only number their classes
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.01
    outliers: Outliers = Outliers()
    near_duplicates: NearDuplicates | Literal[False] = NearDuplicates()

    @model_validator(mode="after")
    def size_is_one_or_two_numbers(self) -> Dataset:
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError(f"image_size = {self.image_size}: expected a number of pixels or [height, width]")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        size = self.image_size
        return (size[0], size[1]) if isinstance(size, list) else (size, size)


def a_name(name: str) -> str:
    if not name or not name[0].isalnum() or not all(c.isalnum() or c in "-_." for c in name) or not name.isascii():
        raise ValueError("a name is letters, digits, '-', '_' and '.', and starts with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(a_name)]


class Params(Strict):
    """Everything that can be tuned."""

    seed: Seed
    downloads: dict[Name, Download] = {}
    datasets: dict[Name, Dataset] = {}
    experiments: dict[Name, Experiment] = {}

    def dataset(self, name: str) -> Dataset:
        return pick(self.datasets, "datasets", name)

    def experiment(self, name: str) -> Experiment:
        return pick(self.experiments, "experiments", name)

    def download(self, name: str) -> Download:
        return pick(self.downloads, "downloads", name)

    def seed_of(self, experiment: str) -> int:
        own = self.experiment(experiment).seed
        return self.seed if own is None else own


def pick(entries: dict[str, Any], section: str, name: str) -> Any:
    if name not in entries:
        raise UserError(f"{FILE}: {section} has no entry {name!r}{hint(name, entries)}; it has: {', '.join(entries)}")
    return entries[name]


def load() -> Params:
    """Read `params.yaml` of the current folder.

    Raises UserError, in one line that names the key, its value and what is allowed.
    """
    return validated(read())


def read() -> dict[str, Any]:
    """The content of `params.yaml`. Raises UserError where it is missing or not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        yaml = YAML(typ="safe", pure=True)
        document = yaml.compose(FILE.read_text())
        if document is not None and values_of(document, {}) > MOST_VALUES:
            raise UserError(
                f"{FILE}: with every alias (*name) written out, it has more than {MOST_VALUES} values;"
                " expected fewer: DVC writes them out whenever it reads the file"
            )
        raw = document and yaml.constructor.construct_document(document)
    except FileNotFoundError:
        raise UserError(f"{FILE} is not in {Path.cwd()}: run this in the project's root folder") from None
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join((error.problem or "not valid YAML").split())
        raise UserError(f"{FILE}{where}: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, 2020-13-45, !!int x, …
        raise UserError(f"{FILE}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict | None):
        raise UserError(f"{FILE}: found a {type(raw).__name__}; expected the keys {', '.join(Params.model_fields)}")
    return raw or {}


def validated(raw: dict[str, Any]) -> Params:
    """The content of a `params.yaml` as typed objects. Raises UserError for the first faulty key."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        try:
            fault = in_one_line(error, raw)
        except ValueError:  # Python writes out no number of more than 4300 digits
            fault = "a number of thousands of digits; expected none so long"
        raise UserError(f"{FILE}: {fault}") from None
    for name, experiment in params.experiments.items():
        check_experiment(name, experiment, params)
    return params


def values_of(node: Any, known: dict[int, int]) -> int:
    """How many values a node of YAML has with its aliases written out; `known` are the answers so far, by id."""
    if id(node) not in known:
        known[id(node)] = 0  # inside itself
        children = node.value if isinstance(node.value, list) else []
        pairs = (child if isinstance(child, tuple) else (child,) for child in children)
        known[id(node)] = 1 + sum(values_of(child, known) for pair in pairs for child in pair)
    return known[id(node)]


def check_experiment(name: str, experiment: Experiment, params: Params) -> None:
    """What can only be known from two entries: the data set exists and its images fit the network."""
    where = f"{FILE}: experiments.{name}"
    if experiment.dataset not in params.datasets:
        known = ", ".join(params.datasets)
        raise UserError(
            f"{where}.dataset = {experiment.dataset!r}: no such data set"
            f"{hint(experiment.dataset, params.datasets)}; datasets has: {known}"
        )
    dataset = params.datasets[experiment.dataset]
    problem = experiment.network.misfit(*dataset.height_width)
    if problem:
        size = "×".join(map(str, dataset.height_width))
        raise UserError(f"{where}.network can't take datasets.{experiment.dataset}.image_size = {size}: {problem}")


def in_one_line(error: ValidationError, raw: Any) -> str:
    """The first faulty key with its value and what was expected there."""
    faults = [(dotted_path(fault, raw), fault) for fault in error.errors()]
    path, fault = faults[0]
    if fault["loc"][-1:] != ("[key]",):
        # Each member of a union has its say: the one that looked deepest is the one that was meant
        inside = (f for f in faults if f[0] == path or f[0].startswith(f"{path}."))
        path, fault = max(inside, key=lambda f: len(f[0]))
    expected = " or ".join(dict.fromkeys(f["msg"].removeprefix("Value error, ") for p, f in faults if p == path))
    value, choices = fault["input"], ""
    if fault["type"] == "union_tag_invalid":
        path, value, choices = f"{path}.name", value["name"], fault["ctx"]["expected_tags"]
        expected = f"Input should be one of {choices}"
    elif fault["type"] == "union_tag_not_found":
        path, expected = f"{path}.name", "Field required"
    elif fault["type"] == "literal_error":
        choices = fault["ctx"]["expected"]
    if isinstance(value, str):
        expected += hint(value, re.findall("'([^']+)'", choices))
    without_value = fault["type"] in ("value_error", "missing", "union_tag_not_found") or fault["loc"][-1] == "[key]"
    where = path if without_value else f"{path} = {shown(value)}"
    return f"{where}: {expected}" if where else expected


def dotted_path(fault: Any, raw: Any) -> str:
    """pydantic's location without the names of union members, which stand in no file."""
    location = fault["loc"]
    keys, value = [], raw
    for part in location:
        is_missing = fault["type"] == "missing" and part is location[-1]
        if isinstance(value, dict) and (part in value or is_missing):
            keys.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            keys.append(part)
            value = value[part]
    if location and location[-1] == "[key]" and fault["input"] not in keys:
        keys.append(fault["input"])  # as it stands in the file: 2020-01-01, null, …
    texts = map(str, keys)
    return ".".join(text if text.isprintable() and len(text) <= LONGEST_KEY else shown(text) for text in texts)
