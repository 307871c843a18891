"""What is wrong with a data set as a whole: what predicts the class, splits that differ, groups in file names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checking import attributes, correlation, drift, name_groups

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.checking.attributes import Attribute
    from pipeline.checking.correlation import AttributePrediction
    from pipeline.checking.drift import Shift
    from pipeline.checking.name_groups import Suggestion

SAID = 3  # findings of one kind at the console, at most


class Overview:
    """Of data/checked/NAME.parquet. It looks at a sample of the images, the same at each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self.table: pa.Table = attributes.sample(path)

    def column(self, name: str) -> list[Any]:
        return self.table[name].to_pylist()

    @cached_property
    def attributes(self) -> list[Attribute]:
        return attributes.attributes(self.table)

    @cached_property
    def predictions(self) -> list[AttributePrediction]:
        return correlation.predictions(self.table, self.attributes)

    @cached_property
    def correlations(self) -> list[AttributePrediction]:
        return correlation.findings(self.predictions)

    @cached_property
    def shifts(self) -> list[Shift]:
        """Between the publisher's splits."""
        return self.shifts_between(self.column("label"), self.column("official_split"))

    def shifts_between(self, labels: list[str], splits: list[str | None]) -> list[Shift]:
        """The differences to call out, if the images of the sample have these classes and are in these splits."""
        copies = [group is not None for group in self.column("group")]
        return drift.findings(drift.shifts(self.attributes, labels, copies, splits))

    @cached_property
    def groups(self) -> Suggestion | None:
        return name_groups.suggest(attributes.stretches(self.path))

    def summary(self) -> dict[str, Any]:
        """What check.json says of the findings: nothing where there are none."""
        found: dict[str, Any] = {}
        if self.correlations:
            found["class_predicted_by"] = {
                prediction.attribute.name: {
                    "class": prediction.label or "all",
                    "balanced_accuracy": round(prediction.accuracy, 4),
                    "chance": round(prediction.chance, 4),
                }
                for prediction in self.correlations
            }
        for shift in self.shifts:
            splits = found.setdefault("official_splits_differ_in", {}).setdefault("-".join(shift.splits), {})
            splits[shift.attribute.name] = {"class": shift.label or "all", "distance": round(shift.distance, 4)}
        if self.groups:
            found["groups_in_file_names"] = {"groups": self.groups.groups, "images": self.groups.images}
        return found

    def in_words(self, group_by: str | None) -> list[str]:
        """Lines for the console. `group_by` is what params.yaml has: then no other is suggested."""
        lines = [
            f"{correlation.in_words(found)}: {correlation.COSTS[found.attribute.kind]}" for found in self.correlations
        ]
        lines = [*shortened(lines), *drift.in_words(self.shifts)]
        if self.groups and group_by is None:
            lines.append(name_groups.in_words(self.groups, self.name))
        return [f"{self.name}: {line}" for line in lines]


def shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SAID else [*lines[:SAID], f"and so on, {len(lines) - SAID} more: see the report page"]
