"""Where each experiment of a data set stands: by its accuracy on validation images, and next to the best."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.dashboard.records import Record
from pipeline.evaluation.paired import Paired
from pipeline.evaluation.stored import IMAGE

NOT_TESTED = "validated on other images"


class Standing(NamedTuple):
    """A row of the leader board."""

    record: Record
    place: int  # from 1; also that of its color in the chart
    against_best: Paired | None  # on the same validation images; None for the best, and where it can't be said
    verdict: str  # in words, next to the best

    @property
    def is_tied(self) -> bool:
        return self.against_best is not None and self.against_best.verdict() == "not distinguishable"


def rank(records: list[Record]) -> list[Standing]:
    """The best on val first; without val, the order that they come in: nothing is chosen by test images."""
    ranked = sorted(records, key=lambda record: -(record.accuracy("val") or 0))
    if len(ranked) == 1:
        return [Standing(ranked[0], 1, None, "")]
    return [
        Standing(record, place, paired := compared(ranked[0], record), verdict(ranked[0], record, paired))
        for place, record in enumerate(ranked, 1)
    ]


def compared(best: Record, other: Record) -> Paired | None:
    """None unless both say something of the same validation images, labeled alike."""
    first, second = best.validated, other.validated
    if best is other or first is None or second is None or not same_images(best, other):
        return None
    return Paired.of(first.right, second.right)


def same_images(one: Record, other: Record) -> bool:
    """Whether both were validated on the same images, labeled alike."""
    if one.validated is None or other.validated is None:
        return False
    first, second = one.validated.table, other.validated.table
    return first.select([*IMAGE]).equals(second.select([*IMAGE]))


def verdict(best: Record, other: Record, paired: Paired | None) -> str:
    if other.accuracy("val") is None:
        return ""
    if best is other:
        return "the best"
    if paired is None:
        return NOT_TESTED if best.validated and other.validated else ""
    return {"worse": "worse", "better": "better by its first training"}.get(word := paired.verdict(), word)
