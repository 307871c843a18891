"""What `params.yaml` may say of published files and of data sets."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.fields import Address, Fraction, Md5, Sha256, Strict, shown
from pipeline.system.memory import MOST_PIXELS

# The protocols of fsspec that read over a network. Its others read this machine's own files, or chain addresses
NETWORKS = (
    *("abfs", "adl", "az", "azure", "ftp", "gcs", "gdrive", "gs", "hdfs", "hf", "http", "https", "oss", "s3", "s3a"),
    *("sftp", "smb", "ssh", "webdav", "webdavs", "webhdfs"),
)
Pixels = Annotated[int, Field(gt=0, le=8192)]  # a side of a packed image


class PublishedFile(Strict):
    """One file of a data set as its publisher made it; at least one of the checksums must be known."""

    bytes: Annotated[int, Field(ge=0)] | None = None
    md5: Md5 | None = None
    sha256: Sha256 | None = None
    content_sha256: Sha256 | None = None  # of what is inside the gzip file, for mirrors that compressed it again

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


def one_path(source: object) -> object:
    if isinstance(source, dict | list):
        raise ValueError(
            "found several; expected one path, because DVC follows no more: for images with a list of labels, put the"
            " list into their folder and name it as check.labels"
        )
    return source


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
    color: Annotated[float, Field(ge=0, le=0.5)] = 0.01  # largest share of gray images among colored, or the reverse

    def of(self, name: str) -> float:
        limit: float | None = getattr(self, name)
        return float("inf") if limit is None else limit


class NearDuplicates(Strict):
    """How much two images may differ and still count as one."""

    distance: Annotated[int, Field(ge=0, le=8)] = 5  # bits of 64 between their perceptual hashes
    difference: Annotated[float, Field(gt=0)] = 1.0  # where they differ most, in standard deviations of their detail


class Check(Strict):
    """What the stage `check` compares images with, and what it calls their classes."""

    labels: Annotated[str, Field(min_length=1)] | None = None  # a list inside the source, instead of class folders
    classes: list[str] | None = None  # names for formats and lists that only number their classes
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.01  # fraction of broken images that is accepted
    max_pixels: Annotated[int, Field(gt=0)] = MOST_PIXELS  # width times height of an image that is decoded
    outliers: Outliers = Outliers()
    near_duplicates: NearDuplicates | Literal[False] = NearDuplicates()


Interpolation = Literal["bilinear", "bicubic"]
ColorProfile = Literal["stored", "srgb"]  # what becomes of colors with an embedded profile
Fit = Literal["crop", "pad", "stretch"]  # what `decode.to_size` does


class Pack(Strict):
    """The shape of packed images, and how they are scaled to it."""

    size: Pixels | list[Pixels]
    channels: Literal[1, 3] = 3
    interpolation: Interpolation = "bilinear"
    color_profile: ColorProfile = "stored"
    fit: Fit = "crop"

    @model_validator(mode="after")
    def size_is_one_or_two_numbers(self) -> Pack:
        if isinstance(self.size, list) and len(self.size) != 2:
            raise ValueError(f"size = {self.size}: expected a number of pixels or [height, width]")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size[0], self.size[1]) if isinstance(self.size, list) else (self.size, self.size)


Share = Annotated[float, Field(ge=0, le=1)]


class Gates(Strict):
    """What a model has to reach on validation images to become the champion of its data set."""

    accuracy: Share | None = None  # at least
    recall: Share | None = None  # of each class, at least
    ece: Share | None = None  # expected calibration error, at most


class Dataset(Strict):
    """Where the images are, a section for each stage that works on them, and what its models have to reach."""

    # image_size is what pack.size was called
    elsewhere: ClassVar[dict[str, str]] = {"image_size": "pack.size"} | {
        key: f"{section}.{key}"
        for section, model in (("check", Check), ("split", Split), ("pack", Pack), ("gates", Gates))
        for key in model.model_fields
    }

    source: Annotated[Address, BeforeValidator(one_path), AfterValidator(a_source)]
    license: Annotated[str, Field(min_length=1)] | None = None  # of the images, for the card of an exported model
    check: Check
    split: Split
    pack: Pack
    gates: Gates = Gates()

    @model_validator(mode="before")
    @classmethod
    def every_section_is_there(cls, value: object) -> object:
        """DVC runs no stage whose params are missing: say so before a long check, instead of after it."""
        if isinstance(value, dict) and value.keys() <= cls.model_fields.keys():  # else an unknown key is the mistake
            for section in ("check", "split"):
                if section not in value:
                    raise ValueError(f"no section {section}; expected {section}: {{}} for its defaults")
        return value
