"""A model as one graph, from pixels as they are stored to class probabilities, in ONNX and in torch's own format."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.inference import mean_logits
from pipeline.system.console import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch.export import ExportedProgram

    from pipeline.evaluation.model import Model

TOLERANCE = 1e-4  # of a probability, between PyTorch and ONNX Runtime


class Graph(nn.Module):
    """Images (N, H, W, C) uint8 → calibrated probabilities (N, classes) float32, with the preprocessing of training."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.tta, self.temperature = model.network, model.tta, model.temperature
        self.register_buffer("mean", torch.tensor(model.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(model.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return torch.softmax(mean_logits(self.network, pixels, self.tta).float() / self.temperature, dim=1)


def trace(model: Model) -> ExportedProgram:
    """The graph for batches of any size. Raises UserError for a network that torch.export can't trace."""
    height, width, channels = model.shape.height, model.shape.width, model.shape.channels
    example = torch.zeros((2, height, width, channels), dtype=torch.uint8)
    with quiet():
        try:
            program = torch.export.export(
                Graph(model).eval(), (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
            )
        except Exception as error:  # the exporter has dozens of its own
            said = one_line(error)
            raise UserError(f"torch.export can't trace {model.folder}: {said}") from None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine
    return program


def write_torch(path: Path, program: ExportedProgram) -> None:
    with quiet():
        torch.export.save(program, path)


def write_onnx(path: Path, program: ExportedProgram, model: Model, preprocessing: dict[str, Any]) -> None:
    """Write the program of a model as ONNX, with what its images have to be in the metadata `preprocessing`, as JSON.

    It is one file up to 1.5 GB of weights; more are beside it in a file with the suffix .data, as ONNX holds 2 GB.
    Raises UserError for a network that ONNX can't hold.
    """
    with quiet():
        try:
            onnx = torch.onnx.export(
                program, input_names=["images"], output_names=["probabilities"], dynamo=True, verbose=False
            )
        except Exception as error:  # the exporter has dozens of its own
            raise unfit("hold", model, error) from None
    assert onnx is not None  # it is None only with a file name
    onnx.model.metadata_props["preprocessing"] = json.dumps(preprocessing, ensure_ascii=False)
    onnx.save(path)


def unfit(verb: str, model: Model, error: BaseException) -> UserError:
    """What is wrong with a network, by the innermost error: those around it only say that exporting has failed."""
    while error.__cause__:
        error = error.__cause__
    return UserError(
        f"ONNX can't {verb} {model.folder}: {one_line(error)}; use it with PyTorch instead, as `make serve"
        f" MODEL={model.folder}` or pipeline.predict do"
    )


def check_onnx(path: Path, model: Model, images: NDArray[np.uint8]) -> float:
    """The largest difference between what ONNX Runtime and PyTorch say of images, (N, H, W, C) uint8.

    Raises UserError where it exceeds the TOLERANCE, and where ONNX Runtime can't run the network.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images})
    except Exception as error:  # its errors have nothing else in common
        raise unfit("run", model, error) from None
    difference = float(np.abs(found - model.probabilities(images)).max())
    if not difference <= TOLERANCE:
        raise UserError(f"ONNX Runtime and PyTorch differ by {difference:.2g} of a probability; expected {TOLERANCE:g}")
    return difference


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes to their own developers."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
