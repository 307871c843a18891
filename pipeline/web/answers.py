"""What the page is told of one photo: its classes, what the network saw of it, and where it looked."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.stored import Problem
from pipeline.prediction import pixels
from pipeline.prediction.classify import answer
from pipeline.system.console import UserError
from pipeline.system.workers import CRASHED, LATE
from pipeline.system.workers.pool import OutOfMemory, Pool, WorkerCrashed

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model
    from pipeline.images.decode import Preprocessing

SHOWN = 5  # classes
SECONDS = 60  # that decoding one photo may take


class Unusable(Exception):
    """A photo without an answer: the reason, and whether it is too large."""

    def __init__(self, reason: str, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


class Answers:
    """Answers of one model, one photo at a time: further requests wait.

    Photos are decoded in a worker process, so that none takes the server along.
    """

    def __init__(self, model: Model) -> None:
        from pipeline.prediction.explain import explainer

        self.model, self.pool, self.lock = model, Pool(), threading.Lock()
        self.decode = partial(decode_all, how=pixels.preprocessing(model))
        try:
            self.explain = explainer(model)
            self.unexplained = None
        except UserError as error:
            self.unexplained = str(error)

    def of(self, content: bytes) -> dict[str, Any]:
        """What to say of a photo, by the bytes of its file. Raises Unusable."""
        with self.lock:
            image = self.pixels(content)
            said = answer(self.model, "", self.model.probabilities(np.stack([image]))[0], SHOWN)
            if said.error:
                raise Unusable(said.error)
            explanation = None if self.unexplained else self.explain(image, said.top[0].label)
        return {
            "predictions": [{"class": each.label, "probability": each.probability} for each in said.top],
            "picture": data_url(image),
            "explanation": None if explanation is None else data_url(explanation),
        }

    def pixels(self, content: bytes) -> NDArray[np.uint8]:
        try:
            (found,) = self.pool.alone(self.decode, [content], SECONDS)
        except OutOfMemory:
            raise Unusable("too_large: not enough memory to decode it", too_large=True) from None
        except WorkerCrashed:
            raise Unusable(f"unreadable: {CRASHED}") from None
        except TimeoutError:
            raise Unusable(f"unreadable: {LATE} {SECONDS} s") from None
        if isinstance(found, Problem):
            raise Unusable(pixels.in_words(found), found.code == "too_large")
        return found

    def close(self) -> None:
        self.pool.stop()


def decode_all(contents: list[bytes], how: Preprocessing) -> Iterator[NDArray[np.uint8] | Problem]:
    """The pixels of each image. Runs in a worker process."""
    for content in contents:
        yield pixels.pixels_of(content, "", how)


def data_url(image: NDArray[np.uint8]) -> str:
    """An image (H, W, C) as the address of a PNG that holds it."""
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
