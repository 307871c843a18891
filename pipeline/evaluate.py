"""Stage `evaluate`: look at the test set once and report how good a model is.

usage: python -m pipeline.evaluate EXPERIMENT
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import figures, params
from pipeline.cells import harmless
from pipeline.console import UserError, only_argument, printable, run, say
from pipeline.lock import alone
from pipeline.outputs import whole, write_json

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.recipes import Experiment
    from pipeline.training.data import Packed

SAMPLES = 24  # images on the grid of sample predictions


def main() -> None:
    name = only_argument("EXPERIMENT")
    recipe = params.load().experiment(name)
    with alone(f"evaluate@{name}"):
        evaluate(name, recipe)


def evaluate(name: str, recipe: Experiment) -> None:
    import torch

    from pipeline.model import Model
    from pipeline.training.data import Batches, Packed, resident_budget
    from pipeline.training.device import make_deterministic, place
    from pipeline.training.inference import log_probabilities

    device, threads = place(recipe.compute)
    make_deterministic(device, threads)
    packed = Packed(Path("data/packed", recipe.dataset))
    model = Model(Path("models", name))
    if model.classes != packed.classes:
        raise UserError(f"models/{name} knows other classes than data/packed/{recipe.dataset}: run dvc repro")
    if model.shape[:3] != (packed.meta["channels"], packed.meta["height"], packed.meta["width"]):
        raise UserError(f"models/{name} takes images of another size than data/packed/{recipe.dataset}: run dvc repro")
    rows = packed.rows("test")
    if not len(rows):
        raise UserError(f"{recipe.dataset} has no test images: raise datasets.{recipe.dataset}.split.test")
    data = Batches(packed, rows, model.mean, model.std, device, resident_budget(device))
    scores = log_probabilities(model.network.to(device), data, model.test_flip)
    labels = data.labels.cpu()

    accuracies = [(scores.argmax(1) == labels).double().mean().item()]
    for state in model.other_seeds():
        model.network.load_state_dict(state)
        given = log_probabilities(model.network, data, model.test_flip)
        accuracies.append((given.argmax(1) == labels).double().mean().item())

    best = scores.exp().max(dim=1)
    predictions = packed.index.iloc[rows][["path", "label"]].reset_index(drop=True)
    predictions["predicted"] = [packed.classes[number] for number in best.indices]
    predictions["probability"] = best.values.numpy()
    loss = torch.nn.functional.nll_loss(scores, labels).item()
    if not math.isfinite(loss):
        raise UserError(f"the loss of models/{name} on test images is {loss}: train it with a lower optimizer.lr")
    write_reports(Path("reports", name), predictions, packed.classes, loss, model.about, accuracies)
    draw_samples(Path("reports", name, "samples.png"), packed, rows, predictions)
    say(f"{name}: accuracy {accuracies[0]:.4f}, loss {loss:.4f} on {len(rows):,} test images")
    if over := over_seeds(accuracies):
        say(f"over {len(accuracies)} seeds: accuracy {over['accuracy_mean']:.4f} ± {over['accuracy_sd']:.4f}")


def write_reports(
    folder: Path,
    predictions: pd.DataFrame,
    classes: list[str],
    loss: float,
    about: dict[str, Any],
    accuracies: list[float],
) -> None:
    import pandas as pd
    from sklearn.metrics import classification_report, confusion_matrix

    truth, predicted = predictions.label.to_list(), predictions.predicted.to_list()
    options = {"labels": classes, "zero_division": 0.0}
    report = classification_report(truth, predicted, output_dict=True, **options)
    text = classification_report(truth, predicted, digits=4, target_names=list(map(printable, classes)), **options)
    counts = confusion_matrix(truth, predicted, labels=classes)

    write_json(folder / "classification_report.json", report)
    with whole(folder / "classification_report.txt") as partial:
        partial.write_text(text)
    with whole(folder / "confusion_matrix.csv") as partial:
        pd.DataFrame(
            [
                (harmless(actual), harmless(guess), int(counts[row, column]))
                for row, actual in enumerate(classes)
                for column, guess in enumerate(classes)
            ],
            columns=["actual", "predicted", "count"],
        ).to_csv(partial, index=False)
    with whole(folder / "predictions.parquet") as partial:
        predictions.to_parquet(partial, index=False)
    figures.draw_confusion_matrix(folder / "confusion_matrix.png", counts, classes)
    write_json(
        folder / "metrics.json",
        {
            "accuracy": float(np.trace(counts) / counts.sum()),
            "loss": loss,
            "macro_f1": float(report["macro avg"]["f1-score"]),
            "parameters": about["parameters"],
            "trainable_parameters": about["trainable_parameters"],
            **over_seeds(accuracies),
        },
    )


def over_seeds(accuracies: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation, where a recipe was trained with several seeds."""
    if len(accuracies) == 1:
        return {}
    return {
        "seeds": len(accuracies),
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_sd": float(np.std(accuracies, ddof=1)),
    }


def draw_samples(path: Path, packed: Packed, rows: np.ndarray, predictions: pd.DataFrame) -> None:
    """Evenly spaced test images, titled green where the prediction is right and red where it is wrong."""
    tiles = []
    for position in np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int):
        row = predictions.iloc[position]
        right = row.label == row.predicted
        title = f"{row.predicted} {row.probability:.0%}" + ("" if right else f"\nis {row.label}")
        tiles.append(figures.Tile(packed.images[rows[position]], title, "green" if right else "red"))
    figures.draw_grid(path, tiles)


if __name__ == "__main__":
    run(main)
