"""The model card: what a colleague has to know of a model before using it (Mitchell et al. 2019, Model Cards)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.system import readers

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

NAMED = 30  # classes


def card(model: Model, commit: str | None, difference: float, checked: str) -> str:
    """The card in Markdown, from the model and the reports on it. Raises UserError where a report is missing.

    `difference` is the largest one of a probability between ONNX Runtime and PyTorch, on the images that are `checked`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    name, dataset = model.about["experiment"], model.about["dataset"]
    metrics = readers.read_description(Path("reports", name, "metrics.json"), f"evaluate@{name}")
    split = readers.read_description(Path("reports", dataset, "split.json"), f"split@{dataset}")
    classes = model.classes
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["escaped"] = escaped
    return environment.get_template("card.md").render(
        name=name,
        about=model.about,
        color_profile=model.color_profile,
        shape=model.shape,
        classes=classes,
        named=classes if len(classes) <= NAMED else [*classes[: NAMED - 1], "…"],
        checked=checked,
        difference=difference,
        split=split,
        metrics={"seeds": None, **metrics},
        intervals=list(intervals(metrics, split["total"])),
        commit=commit,
    )


def intervals(metrics: dict[str, Any], images: dict[str, int]) -> Iterator[tuple[str, int, float, float]]:
    """For val and test: the number of images, and Wilson's 95 % interval of the accuracy."""
    from scipy.stats import binomtest

    for side in ("val", "test"):
        if side in metrics:
            right = round(metrics[side]["accuracy"] * images[side])
            low, high = binomtest(right, images[side]).proportion_ci(method="wilson")
            yield side, images[side], low, high


def escaped(name: str) -> str:
    """A name as Markdown shows it, whatever signs it holds."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-.!|~" else sign for sign in name)
