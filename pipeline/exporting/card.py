"""The model card: what a colleague has to know of a model before using it (Mitchell et al. 2019, Model Cards)."""

from __future__ import annotations

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
        metrics={"seeds": None, "folds": None, **metrics},
        images=images_of(metrics, split["total"]),
        commit=commit,
    )


def images_of(metrics: dict[str, Any], split: dict[str, int]) -> dict[str, int]:
    """How many images the metrics of val and of test are of; with folds, all that don't test have validated."""
    counts = {"val": split["val"] + (split["train"] if "folds" in metrics else 0), "test": split["test"]}
    return {side: count for side, count in counts.items() if side in metrics}


def escaped(name: str) -> str:
    """A name as Markdown shows it, whatever signs it holds."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-.!|~" else sign for sign in name)
