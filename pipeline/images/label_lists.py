"""A list of labels: a CSV file among the images that gives each its class, and perhaps its split and its group."""

from __future__ import annotations

import csv
import io
import unicodedata
from array import array
from collections.abc import Iterator
from typing import TextIO

from pipeline.images.folders import SPLIT_NAMES, class_key, in_plain_blanks
from pipeline.images.stored import LARGEST_FILE
from pipeline.system.console import UserError

COLUMNS = ("path", "id", "label", "split", "group")
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, as Excel writes its "Unicode text"
LONGEST_LABEL = 255  # characters, as of a folder
NOT_UTF8 = "not UTF-8: save the table as 'CSV UTF-8'"
NONE = -1


def plain_path(path: str) -> str:
    """A path as lists and sources are compared: NFC, with slashes, without empty parts and leading ones."""
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


class LabelList:
    """The rows of a list. Those that repeat an earlier one are counted, and otherwise left out.

    `where` names the list in messages. `class_names`, if there are any, are what labels that are numbers stand for.
    Raises UserError, with the line, for whatever is no list.
    """

    def __init__(self, where: str, content: bytes, class_names: list[str] | None = None) -> None:
        self.where = where
        self.row_of: dict[str, int] = {}  # by path or id
        self.labels: list[str] = []  # the distinct ones
        self.groups: list[str] = []
        self.lines, self.label, self.split, self.group = array("q"), array("q"), array("b"), array("q")  # of each row
        self.splits = sorted(set(SPLIT_NAMES.values()))
        self.repeated = 0
        self.spelled: dict[str, tuple[str, int]] = {}  # each label and its first line, by its `class_key`
        self.named = {str(number): name for number, name in enumerate(class_names or ())}
        label_numbers, group_numbers = Numbers(self.labels), Numbers(self.groups)

        stream = open_text(content)
        try:
            delimiter, header = read_header(where, stream.readline())
            self.has_splits = "split" in header
            position_of = {column: header.index(column) for column in COLUMNS if column in header}
            for line, cells in read_rows(where, stream, delimiter, len(header)):
                row = {column: cells[position].strip() for column, position in position_of.items()}
                name = plain_path(row["path"] if "path" in row else row["id"])
                if not name:
                    raise self.wrong(line, "its path or id is empty")
                label, group = self.class_of(line, row["label"]), in_plain_blanks(row.get("group", ""))
                values = (
                    label_numbers[label] if label else NONE,
                    self.split_number(line, row.get("split", "")),
                    group_numbers[group] if group else NONE,
                )
                self.add(line, name, values)
        except UnicodeDecodeError:
            raise not_utf8(where, content) from None
        if not self.labels:
            raise UserError(f"{where}: none of its {len(self)} rows has a label; expected one in each")

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, line: int, name: str, values: tuple[int, int, int]) -> None:
        row = self.row_of.setdefault(name, len(self))
        if row == len(self):
            self.lines.append(line)
            for column, value in zip((self.label, self.split, self.group), values, strict=True):
                column.append(value)
            return
        self.repeated += 1
        for what, column, value in zip(COLUMNS[2:], (self.label, self.split, self.group), values, strict=True):
            if column[row] != value:
                raise self.wrong(line, f"{name!r} has another {what} on line {self.lines[row]}; expected one of them")

    def check_same(self, row: int, other: int, name: str) -> None:
        """Raises UserError if two rows that mean the file `name` say different things of it."""
        first, second = sorted((self.lines[row], self.lines[other]))
        for what, column in zip(COLUMNS[2:], (self.label, self.split, self.group), strict=True):
            if column[row] != column[other]:
                raise self.wrong(
                    second, f"it means {name!r}, which has another {what} on line {first}; expected one of them"
                )

    def split_number(self, line: int, split: str) -> int:
        if not split:
            return NONE
        if split.lower() not in SPLIT_NAMES:
            raise self.wrong(line, f"split {split!r}; expected one of {', '.join(SPLIT_NAMES)}, or nothing")
        return self.splits.index(SPLIT_NAMES[split.lower()])

    def class_of(self, line: int, label: str) -> str:
        """The class that a label means. Raises UserError for what is no class or is another one's in other letters."""
        label = unicodedata.normalize("NFC", label)
        if len(label) > LONGEST_LABEL:
            raise self.wrong(line, f"a label of {len(label)} characters; expected at most {LONGEST_LABEL}")
        if "</" in label:  # in DVC's page of plots, </script> would end the script
            raise self.wrong(line, f"label {label!r}; expected none that holds '</', which begins the end of a tag")
        if self.named and label:
            if label not in self.named:
                below = f"expected a number below {len(self.named)}, because check.classes names those"
                raise self.wrong(line, f"label {label!r}; {below}")
            return self.named[label]
        other, first = self.spelled.setdefault(class_key(label), (label, line))
        if other != label:
            raise self.wrong(line, f"label {label!r} differs from {other!r} on line {first} in case or blanks alone")
        return label

    def wrong(self, line: int, problem: str) -> UserError:
        return UserError(f"{self.where}, line {line}: {problem}")


class Numbers(dict[str, int]):
    """The number of each text, by first appearance; new ones are added to `texts`."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self.texts = texts

    def __missing__(self, text: str) -> int:
        self[text] = len(self.texts)
        self.texts.append(text)
        return self[text]


def open_text(content: bytes) -> TextIO:
    encoding = "utf-16" if content.startswith(BYTE_ORDER_MARKS) else "utf-8-sig"
    return io.TextIOWrapper(io.BytesIO(content), encoding, newline="")


def read_header(where: str, line: str) -> tuple[str, list[str]]:
    """The delimiter, by which the expected columns are found, and the names of all columns in small letters."""
    found: list[str] = []
    if "\0" in line:  # UTF-16 without its mark, or a workbook
        raise UserError(f"{where}, line 1: {NOT_UTF8}")
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
        except csv.Error:
            continue
        names = [cell.strip().lower() for cell in cells]
        if "label" in names and ("path" in names or "id" in names):
            if twice := next((name for name in COLUMNS if names.count(name) > 1), ""):
                raise UserError(f"{where}, line 1: two columns are called {twice}; expected one")
            return delimiter, names
        found = max(found, cells, key=len)
    raise UserError(
        f"{where}, line 1: found the columns {', '.join(cell.strip() for cell in found) or '(none)'}; expected path or"
        " id, and label; and where they are known, split and group: rename them there"
    )


def read_rows(where: str, stream: TextIO, delimiter: str, width: int) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty with the line on which it begins; the header has been read."""
    csv.field_size_limit(LARGEST_FILE)  # masks as text take hundreds of kilobytes, as does what follows an open quote
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 2
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                if len(cells) < width or any(cells[width:]):
                    quotes = f": put quotes around one that has {delimiter!r} in it" if len(cells) > width else ""
                    raise UserError(
                        f"{where}, line {line}: {len(cells)} cells; expected {width}, as in its first line{quotes}"
                    )
                yield line, cells
            line = reader.line_num + 2
    except csv.Error as error:
        raise UserError(f"{where}, line {line}: not CSV: {error}") from None


def not_utf8(where: str, content: bytes) -> UserError:
    try:
        content.decode("utf-8-sig")
        line = 1
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
    return UserError(f"{where}, line {line}: {NOT_UTF8}")
