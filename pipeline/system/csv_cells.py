"""Text in CSV files that a spreadsheet takes for text: it would run what begins like a formula."""

from __future__ import annotations

import re

FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r\n]")


def escape_formula(text: str) -> str:
    """The text, with a quote before what begins like a formula, or like one with quotes before it."""
    return f"'{text}" if FORMULA.match(text) else text


def unescape_formula(cell: str) -> str:
    """The text that `escape_formula` made a cell of."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
