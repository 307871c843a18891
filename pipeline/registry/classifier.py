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

BATCH = 64
EXPECTED = "expected the bytes of an image file, or its base64, a pathlib.Path, or an array, (H, W[, C]) of 0 to 255"


class Classifier(PythonModel):
    """Images in, for each its class and the probability of every class, or why it can't be read."""

    model: Model

    def load_context(self, context: PythonModelContext) -> None:
        sys.path.append(context.artifacts["code"])
        from pipeline.evaluation.model import Model

        self.model = Model(Path(context.artifacts["weights"]).parent)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        images = model_input.iloc[:, 0].tolist()
        return [answer for start in range(0, len(images), BATCH) for answer in self.answers(images[start:][:BATCH])]

    def answers(self, images: list[object]) -> Iterator[dict[str, Any]]:
        read = [pixels_of(image, self.model) for image in images]
        whole = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
        probabilities: Iterator[NDArray[np.float32]] = iter(self.model.probabilities(np.stack(whole)) if whole else ())
        for pixels in read:
            if isinstance(pixels, str):
                yield {"error": pixels}
                continue
            each = next(probabilities)
            if not np.isfinite(each).all():
                yield {"error": "the network's logits of it are no finite numbers"}
                continue
            best = int(each.argmax())
            yield {
                "class": self.model.classes[best],
                "probability": float(each[best]),
                "probabilities": dict(zip(self.model.classes, each.tolist(), strict=True)),
            }


def pixels_of(image: object, model: Model) -> NDArray[np.uint8] | str:
    """Pixels (H, W, C) uint8 as the stage `pack` would have stored them, or why there are none."""
    from pipeline.images.decode import decode, to_size, upright
    from pipeline.images.errors import ImageError

    shape = model.shape
    try:
        decoded = decode(content_of(image), "").image
        upright_one = upright(decoded, shape.channels, model.color_profile)
        return to_size(upright_one, shape.height, shape.width, model.interpolation, model.fit)
    except (ImageError, ValueError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    except MemoryError:
        return "not enough memory to decode it"


def content_of(image: object) -> bytes | NDArray[np.uint8]:
    """The bytes of a file, or pixels. Raises ValueError for anything that is no image, OSError for a missing file."""
    if isinstance(image, os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str):
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except ValueError:
            raise ValueError(f"a text that is not base64; {EXPECTED}") from None
    if isinstance(image, list | np.ndarray):
        return array_of(image)
    raise ValueError(f"found a {type(image).__name__}; {EXPECTED}")


def array_of(values: list[Any] | NDArray[Any]) -> NDArray[np.uint8]:
    try:
        pixels = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"rows of different lengths; {EXPECTED}") from None
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not fits or not pixels.size or pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"an array of shape {pixels.shape} and type {pixels.dtype}; {EXPECTED}")
    return pixels.astype(np.uint8)


mlflow.models.set_model(Classifier())
