"""How good a model is on files in a folder for each class."""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from pipeline.images.files import utf8
from pipeline.prediction.classify import Answer
from pipeline.system.console import UserError, first_few

NAMED = 10  # folders that are no class


class Score:
    """Counts true and predicted classes.

    The class of a file is the nearest folder above it that has a class's name, up to the folder that was given: what
    lies above that is where a person happens to keep it.
    """

    def __init__(self, classes: Sequence[str], threshold: float | None) -> None:
        self.classes, self.threshold = classes, threshold
        # names of files may be decomposed, as macOS writes them
        self.numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(classes)}
        self.labels, self.predicted = array("i"), array("i")
        self.unsure = 0
        self.unknown: Counter[str] = Counter()  # files by the folder that is no class

    def label_of(self, answer: Answer) -> str | None:
        path, root = (PurePath(utf8(os.path.abspath(name))) for name in (answer.path, answer.root))
        for folder in path.parents:
            number = self.numbers.get(unicodedata.normalize("NFC", folder.name))
            if number is not None:
                return self.classes[number]
            if folder == root:
                break
        return None

    def add(self, answer: Answer) -> None:
        label = self.label_of(answer)
        if label is None:
            self.unknown[str(PurePath(answer.path).parent)] += 1
        elif answer.top:
            best = answer.top[0]
            if self.threshold is not None and best.probability < self.threshold:
                self.unsure += 1
                return
            self.labels.append(self.classes.index(label))
            self.predicted.append(self.classes.index(best.label))

    def report(self) -> Iterator[str]:
        """Lines: scikit-learn's classification report. Raises UserError where no file has a class."""
        if not self.labels and not self.unsure:
            raise UserError(
                f"no image lies in a folder of a class of the model ({first_few(self.classes, NAMED)}): --score needs"
                " one folder for each class; give these, or one that holds them"
            )
        if self.labels:
            from sklearn.metrics import classification_report

            used = sorted({*self.labels, *self.predicted})
            names = [self.classes[number] for number in used]
            yield from classification_report(
                self.labels, self.predicted, labels=used, target_names=names, digits=4, zero_division=0.0
            ).splitlines()
        if self.unsure:
            counted = self.unsure + len(self.labels)
            yield f"{self.unsure:,} of {counted:,} images are unsure and not in the report"

    def problems(self) -> str | None:
        """The folders that are no class, in one line."""
        if not self.unknown:
            return None
        folders = first_few([f"{folder!r} ({count:,})" for folder, count in self.unknown.most_common()], NAMED)
        return f"not scored, as no folder above them, up to the given one, has the name of a class: files in {folders}"
