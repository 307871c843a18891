"""A trained model as MLflow keeps it: weights, code and what it takes, loadable without this project."""

from __future__ import annotations

import base64
import io
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.system.version import PIPELINE

CLASSIFIER = Path(__file__).with_name("classifier.py")
# What the code below `pipeline` imports to classify an image
PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "safetensors", "simplejpeg", "torch")
OPTIONAL = ("pillow-heif",)  # without it, HEIC is not read


def save(model: Path, about: dict[str, Any], out: Path) -> None:
    """Write the model in the folder `model`, whose model.json says `about`, as an MLflow model to the folder `out`."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map
    from PIL import Image

    code = out.with_name("pipeline.zip")
    zip_code(code)
    files = {"weights": model / "model.safetensors", "description": model / "model.json", "code": code}
    shape = about["shape"]
    black = io.BytesIO()
    Image.fromarray(np.zeros((shape["height"], shape["width"]), np.uint8)).save(black, "PNG")
    answer = Schema(
        [
            ColSpec(DataType.string, "class", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(Map(DataType.double), "probabilities", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    )
    pyfunc.save_model(
        out,
        python_model=str(CLASSIFIER),
        artifacts={name: str(file) for name, file in files.items()},
        signature=ModelSignature(Schema([ColSpec(AnyType())]), answer),
        input_example=[base64.b64encode(black.getvalue()).decode()],
        pip_requirements=requirements(about["network"]["name"]),
        metadata={key: about[key] for key in ("dataset", "experiment", "classes")},
    )
    description = Model.load(out)
    description.flavors["python_function"]["model_code_path"] = CLASSIFIER.name  # not where it lies on this machine
    description.save(out / "MLmodel")


def zip_code(out: Path) -> None:
    """Write the package as one file, which Python imports as it is: a server takes seconds for hundreds of files."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(PIPELINE.rglob("*.py")):
            archive.write(file, file.relative_to(PIPELINE.parent))


def requirements(network: str) -> list[str]:
    """The installed versions of what the model needs; MLflow would find them out in 26 s, in a process of its own."""
    extra = [package for package in ("torchvision", "timm") if package == network]
    found = []
    for package in (*PACKAGES, *extra, *OPTIONAL):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package not in OPTIONAL:
                raise
        else:
            found.append(f"{package}=={version.partition('+')[0]}")  # no index has a local version such as +cu128
    return found
