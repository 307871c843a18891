"""Compare experiments by their results: a table with validation images first, by which one is chosen.

An experiment may be a pattern: 'digits-*'.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.config import params
from pipeline.system import readers
from pipeline.system.console import UserError, run, say

COLUMNS = ("accuracy", "loss", "macro_f1")


def main() -> None:
    parser = command_line("compare", __doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="a name or a pattern; none: all")
    patterns = parser.parse_args().experiments or ["*"]
    names = [name for name in params.load().experiments if any(fnmatchcase(name, pattern) for pattern in patterns)]
    results = {name: metrics for name in names if (metrics := read_metrics(name))}
    if not results:
        raise UserError(f"no results of {', '.join(patterns)}: run dvc repro evaluate@EXPERIMENT")
    say(*table(results))


def read_metrics(name: str) -> dict[str, Any] | None:
    """The content of metrics.json; None where the experiment never ran. Raises UserError where it is damaged."""
    file = Path("reports", name, "metrics.json")
    return readers.read_description(file, f"evaluate@{name}") if file.exists() else None


def table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Lines with aligned columns, in the order of `params.yaml`."""
    heads = [f"{side} {column}" for side in ("val", "test") for column in COLUMNS]
    rows = [["experiment", *heads, "parameters"]]
    for name, metrics in results.items():
        values = [cell(metrics.get(side, {}), column) for side in ("val", "test") for column in COLUMNS]
        rows.append([name, *values, f"{metrics['parameters']:,}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        aligned = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *aligned])


def cell(metrics: dict[str, float], column: str) -> str:
    """A metric with four digits; mean and standard deviation where there are several seeds."""
    if f"{column}_mean" in metrics:
        return f"{metrics[f'{column}_mean']:.4f} ± {metrics[f'{column}_sd']:.4f}"
    return f"{metrics[column]:.4f}" if column in metrics else "-"


if __name__ == "__main__":
    run(main)
