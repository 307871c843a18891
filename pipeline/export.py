"""Write a trained model as a folder for people without this project: ONNX, torch.export, a model card, an example."""

from __future__ import annotations

from pipeline.system.entry import command_line

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.system.console import UserError, printable, require, run, say
from pipeline.system.outputs import atomic_write

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

CHECKED = 64  # images on which ONNX Runtime is compared with PyTorch


def main() -> None:
    parser = command_line("export", __doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="models/EXPERIMENT")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists():
        raise UserError(f"{out} is there already: give --out another name, or remove it")
    require("export", "onnx", "onnxscript", "onnxruntime")

    from pipeline.evaluation.model import Model
    from pipeline.evaluation.stored import check_files
    from pipeline.exporting import graph
    from pipeline.exporting.card import card

    model = Model(arguments.model)
    check_files(model.folder, Path("reports", model.about["experiment"], "provenance.json"), model.stage)
    images, checked = test_images(model)
    with atomic_write(out) as folder:
        folder.mkdir()
        program = graph.trace(model)
        graph.write_torch(folder / "model.pt2", program)
        graph.write_onnx(folder / "model.onnx", program, model, onnx_metadata(model))
        difference = graph.check_onnx(folder / "model.onnx", model, images)
        shutil.copy(Path(__file__).parent / "exporting/classify.py", folder)
        beside = (folder / "model.onnx.data").exists()
        (folder / "README.md").write_text(card(model, difference, checked, beside), encoding="utf-8")
    more = " with model.onnx.data, its weights" if beside else ""
    say(f"{out}: model.onnx{more}, model.pt2, classify.py and README.md, the model card")
    say(f"on {checked}, ONNX Runtime and PyTorch differ by at most {difference:.1g} of a probability")


def onnx_metadata(model: Model) -> dict[str, object]:
    """What a program has to know to make an input of an image and a class of an output."""
    shape = model.shape
    return {
        "classes": [printable(name) for name in model.classes],
        "mode": "L" if shape.channels == 1 else "RGB",
        "size": [shape.width, shape.height],
        "shape": [shape.height, shape.width, shape.channels],
        "fit": model.fit,
        "interpolation": model.interpolation.upper(),
        "color_profile": model.color_profile,
        "max_pixels": model.max_pixels,
    }


def test_images(model: Model) -> tuple[NDArray[np.uint8], str]:
    """Test images of the model's data set, (N, H, W, C) uint8, and what they are; noise where they are not here."""
    from pipeline.dataset.packed import PackedDataset

    dataset, size = model.about["dataset"], (model.shape.height, model.shape.width, model.shape.channels)
    folder, splits = Path("data/packed", dataset), Path("data/splits", f"{dataset}.parquet")
    why = f"data/packed/{dataset} is not here"
    if folder.exists() and splits.exists():
        packed = PackedDataset(folder, splits)
        chosen = np.sort(packed.rows("test"))[:CHECKED]
        if len(chosen) and packed.images.shape[1:] == size:
            return packed.images[chosen], f"{len(chosen)} test images"
        why = f"data/packed/{dataset} has no test images of the size that the model takes"
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, *size), np.uint8)
    return noise, f"{CHECKED} images of noise ({why})"


if __name__ == "__main__":
    run(main)
