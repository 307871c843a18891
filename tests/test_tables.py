"""The tables between stages: what a disk or a network has changed is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_manifest
from samples import bit_flipped

from pipeline.images.tables import SPLIT, read_columns
from pipeline.system.console import UserError


def test_a_changed_bit_of_the_values_is_noticed(tmp_path: Path) -> None:
    rows = [
        {"path": f"{number:03d}.png", "label": "ab"[number % 2], "split": "train", "train_order": number / 64}
        for number in range(64)
    ]
    file = tmp_path / "splits/photos.parquet"
    file.parent.mkdir()
    write_manifest(file, rows, ["a", "b"], SPLIT)
    whole, classes = read_columns(file)
    assert classes == ["a", "b"] and whole.num_rows == 64
    content = file.read_bytes()
    metadata = int.from_bytes(content[-8:-4], "little")  # of the file, at its end, which parquet adds no checksum to
    noticed = 0
    for at in range(4, len(content) - 8 - metadata, 5):
        file.write_bytes(bit_flipped(content, at))
        try:
            assert read_columns(file)[0].equals(whole)  # the header of a page has fields that nothing depends on
        except UserError:
            noticed += 1
    assert noticed > 20


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "splits/photos.parquet"
    file.parent.mkdir()
    write_manifest(file, [], ["a", "b"], SPLIT)
    with pytest.raises(UserError, match="no_such_column"):
        read_columns(file, ["path", "no_such_column"])
