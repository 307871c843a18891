"""Answers for many files, in their order, batch by batch; worker processes decode while the network computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.images.files import utf8
from pipeline.images.items import is_clutter
from pipeline.images.stored import Problem
from pipeline.prediction.inputs import File, Found
from pipeline.prediction.pixels import NOT_FINITE, crashed, in_words, preprocessing, read_all, size
from pipeline.system.workers import ordered_map

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

BATCH = 64
UNSURE = "unsure"  # the answer where no class is probable enough


class Prediction(NamedTuple):
    label: str
    probability: float


class Answer(NamedTuple):
    """What a model says of one file, or why it says nothing."""

    path: str
    top: list[Prediction]  # the most probable classes, the best first; none where there is an error
    error: str | None = None
    pixels: NDArray[np.uint8] | None = None  # (H, W, C), as the network sees them
    root: str = ""  # the folder that was given, or that holds all files that were: the file lies in it or below

    def predicted(self, threshold: float) -> str:
        """The most probable class, or `unsure` where its probability is below the threshold."""
        return self.top[0].label if self.top[0].probability >= threshold else UNSURE


def classify(model: Model, found: Found, most: int) -> Iterator[Answer]:
    """For each file, in order, its `most` probable classes.

    Files that are no images and do not claim to be are added to those left out, unless they are named.
    """
    how = preprocessing(model)
    paths = (file.path for file in found.files)
    pixels_of = ordered_map(partial(read_all, how=how), paths, partial(size, how=how), crashed)
    decoded = zip(found.files, pixels_of, strict=True)
    while batch := list(islice(decoded, BATCH)):
        whole = [pixels for _, pixels in batch if not isinstance(pixels, Problem)]
        probabilities = iter(model.probabilities(np.stack(whole)) if whole else ())
        for file, pixels in batch:
            path, root = utf8(file.path), utf8(file.root or "")
            if not isinstance(pixels, Problem):
                yield answer(model, path, next(probabilities), most)._replace(pixels=pixels, root=root)
            elif is_left_out(file, pixels):
                found.left_out.append(f"{file.path} (no image)")
            else:
                yield Answer(path, [], in_words(pixels), root=root)


def is_left_out(file: File, problem: Problem) -> bool:
    return not file.named and is_clutter(file.path.rpartition("/")[2], [problem.code])


def answer(model: Model, path: str, probabilities: NDArray[np.float32], most: int) -> Answer:
    if not np.isfinite(probabilities).all():
        return Answer(path, [], NOT_FINITE)
    best = np.argsort(-probabilities, kind="stable")[:most]
    return Answer(path, [Prediction(model.classes[number], float(probabilities[number])) for number in best])
