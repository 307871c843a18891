"""The model as MLflow loads it. MLflow keeps this file and the package beside the weights, and runs it: no pickle.

A text is base64, never the name of a file: a model that is served reads no files for who asks. Names of files are
`pathlib.Path`, which no request can hold.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model
    from pipeline.images.stored import Problem

BATCH = 64
EXPECTED = "expected the bytes of an image file, or its base64, a pathlib.Path, or an array, (H, W[, C]) of 0 to 255"


class Classifier(PythonModel):
    """Images in, for each its class and the probability of every class, or why it can't be read."""

    model: Model

    def load_context(self, context: PythonModelContext) -> None:
        sys.path.insert(0, context.artifacts["code"])
        try:
            from pipeline.evaluation.model import Model
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("pipeline."):
                raise
            other = sys.modules["pipeline"].__file__
            raise ImportError(f"{other} is another package with the name pipeline: load the model without it") from None

        self.model = Model(Path(context.artifacts["weights"]).parent)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        images = model_input.iloc[:, 0].tolist()
        return [answer for start in range(0, len(images), BATCH) for answer in self.answers(images[start:][:BATCH])]

    def answers(self, images: list[object]) -> Iterator[dict[str, Any]]:
        from pipeline.images.stored import Problem
        from pipeline.prediction.pixels import NOT_FINITE, in_words, pixels_of, preprocessing

        how = preprocessing(self.model)
        read = [pixels_of(content_of(image), "", how) for image in images]
        whole = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
        probabilities: Iterator[NDArray[np.float32]] = iter(self.model.probabilities(np.stack(whole)) if whole else ())
        for pixels in read:
            if isinstance(pixels, Problem):
                yield {"error": in_words(pixels)}
                continue
            each = next(probabilities)
            if not np.isfinite(each).all():
                yield {"error": NOT_FINITE}
                continue
            best = int(each.argmax())
            yield {
                "class": self.model.classes[best],
                "probability": float(each[best]),
                "probabilities": dict(zip(self.model.classes, each.tolist(), strict=True)),
            }


def content_of(image: object) -> bytes | NDArray[np.uint8] | Problem:
    """The bytes of a file, or pixels, or why it is neither."""
    from pipeline.images.stored import Problem
    from pipeline.prediction.pixels import UNREAD, read

    if isinstance(image, os.PathLike):
        return read(os.fspath(image))
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    try:
        if isinstance(image, str):
            return base64.b64decode("".join(image.split()), validate=True)
        if isinstance(image, list | np.ndarray):
            return array_of(image)
    except ValueError as error:
        said = str(error) if not isinstance(image, str) else "a text that is not base64"
        return Problem(UNREAD, f"{said}; {EXPECTED}")
    return Problem(UNREAD, f"found a {type(image).__name__}; {EXPECTED}")


def array_of(values: list[Any] | NDArray[Any]) -> NDArray[np.uint8]:
    """An image that is given as numbers. Raises ValueError where they are none."""
    pixels = np.asarray(values)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not fits or not pixels.size or pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"an array of shape {pixels.shape} and type {pixels.dtype}")
    return pixels.astype(np.uint8)


mlflow.models.set_model(Classifier())
