"""The model card: what a colleague has to know of a model before using it (Mitchell et al. 2019, Model Cards)."""

from __future__ import annotations

import csv
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config import params
from pipeline.system import readers
from pipeline.system.console import first_few
from pipeline.system.csv_cells import unescape_formula
from pipeline.tracking.description import commands
from pipeline.tracking.origin import of_report

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

NAMED = 30  # classes
WEAKEST = 3  # classes, among the limits
EVALUATED = ("val", "test")
FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high", "loss", "ece")


def card(model: Model, difference: float, checked: str, weights_beside: bool) -> str:
    """The card in Markdown, from the model and the reports on it. Raises UserError where one is missing or incomplete.

    `difference` is the largest one of a probability between ONNX Runtime and PyTorch, on the images that are `checked`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    name, dataset = model.about["experiment"], model.about["dataset"]
    metrics = read_figures(name)
    provenance = readers.read_json(Path("reports", name, "provenance.json"), f"train@{name}")
    sizes = read_sizes(dataset)
    classes = model.classes
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["escaped"] = escaped
    recalls = read_recalls(name)
    known = params.load().datasets.get(dataset)
    return environment.get_template("card.md").render(
        name=name,
        about=model.about,
        license=known and known.license,
        weights=model.about["network"].get("weights"),
        color_profile=model.color_profile,
        shape=model.shape,
        classes=classes,
        named=classes if len(classes) <= NAMED else [*classes[: NAMED - 1], "…"],
        checked=checked,
        difference=difference,
        sizes=sizes,
        weights_beside=weights_beside,
        metrics={"seeds": None, "folds": None, **metrics},
        images={key: sum(each.images for each in recalls if each.split == key) for key in EVALUATED if key in metrics},
        weakest=weakest(recalls),
        commands=commands(name, of_report(Path("reports", name), provenance.get("fingerprint"))),
    )


def read_figures(name: str) -> dict[str, Any]:
    """The metrics of an experiment. Raises UserError unless they have all that the card shows."""
    metrics = readers.read_metrics(name)
    for split in EVALUATED:
        lacking = [key for key in FIGURES if key not in metrics.get(split, {})]
        if lacking and (split == "test" or split in metrics):
            file = Path("reports", name, "metrics.json")
            raise readers.damaged(file, f"{split} has no {first_few(lacking, NAMED)}", f"evaluate@{name}")
    return metrics


def read_sizes(dataset: str) -> dict[str, int]:
    """How many images of a data set are in each split. Raises UserError where its split.json does not tell."""
    file, stage = Path("reports", dataset, "split.json"), f"split@{dataset}"
    sizes = readers.read_json(file, stage).get("total")
    if not isinstance(sizes, dict) or not all(type(count) is int for count in sizes.values()):
        raise readers.damaged(file, "it has no total of images by split", stage)
    return sizes


class Recall(NamedTuple):
    """How many images of a class there are in one split, and what share of them the model finds, if there are any."""

    split: str
    label: str
    images: int
    found: float | None


def read_recalls(name: str) -> list[Recall]:
    """The recall of each class on each split. Raises UserError where the model has not been evaluated."""
    file = Path("reports", name, "per_class.csv")
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [
                Recall(
                    row["split"],
                    unescape_formula(row["class"]),
                    int(row["images"]),
                    float(row["recall"]) if row["recall"] else None,
                )
                for row in csv.DictReader(lines)
            ]
    except FileNotFoundError:
        raise readers.missing(file, f"evaluate@{name}") from None
    except (ValueError, KeyError, csv.Error) as error:
        raise readers.damaged(file, error, f"evaluate@{name}") from None


def weakest(recalls: list[Recall]) -> list[Recall]:
    """The classes of which the model finds the smallest shares of the test images, where it misses any."""
    missed = [each for each in recalls if each.split == "test" and each.found is not None and each.found < 1]
    return sorted(missed, key=attrgetter("found"))[:WEAKEST]


def escaped(name: str) -> str:
    """A name as Markdown shows it, whatever signs it holds."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-.!|~" else sign for sign in name)
