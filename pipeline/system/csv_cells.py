"""Escape text in CSV files that a spreadsheet would run as a formula."""

from __future__ import annotations

import re

FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r\n]")


def escape_formula(text: str) -> str:
    """The text, after a single quote if it begins like a formula or like an escaped formula."""
    return f"'{text}" if FORMULA.match(text) else text


def unescape_formula(cell: str) -> str:
    """The text that `escape_formula` turned into this cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
