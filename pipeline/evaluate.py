"""Stage `evaluate`: look at the test set once and report how good a model is."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import params
from pipeline.evaluation import figures
from pipeline.system.console import UserError, printable, say
from pipeline.system.csv_cells import escape_formula
from pipeline.system.outputs import together, write_json

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

    from pipeline.dataset.packed import PackedDataset

SAMPLES = 24  # images on the grid of sample predictions


def main(name: str) -> None:
    config = params.load().experiment(name)

    from pipeline.dataset.batches import Batches, resident_budget
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.inference import answers
    from pipeline.evaluation.model import Model
    from pipeline.system.device import make_deterministic, select_device

    device, threads = select_device(config.compute)
    make_deterministic(device, threads)
    packed = PackedDataset(Path("data/packed", config.dataset))
    packed.verify()
    model = Model(Path("models", name))
    if model.classes != packed.classes:
        raise UserError(f"models/{name} knows other classes than data/packed/{config.dataset}: run dvc repro")
    if model.shape[:3] != (packed.meta["channels"], packed.meta["height"], packed.meta["width"]):
        raise UserError(f"models/{name} takes images of another size than data/packed/{config.dataset}: run dvc repro")
    if (trainings := 1 + len(model.other_seeds())) != config.seeds:
        raise UserError(
            f"models/{name} holds {trainings} trainings, params.yaml wants seeds = {config.seeds}: run dvc repro"
        )
    rows = packed.rows("test")
    if not len(rows):
        raise UserError(f"{config.dataset} has no test images: raise datasets.{config.dataset}.split.test")
    data = Batches(packed, rows, model.mean, model.std, device, resident_budget(device))
    labels, network = data.labels.cpu(), model.network.to(device)
    given = answers(network, data, model.tta)
    accuracies = [given.accuracy(labels)]
    for file in model.other_seeds():
        model.load(file)
        accuracies.append(answers(network, data, model.tta).accuracy(labels))

    loss = given.loss()
    if not math.isfinite(loss):
        raise UserError(f"the loss of models/{name} on test images is {loss}: train it with a lower optimizer.lr")
    predictions = packed.index.iloc[rows][["path", "label"]].reset_index(drop=True)
    predictions["predicted"] = np.array(packed.classes, object)[given.named.numpy()]
    predictions["probability"] = given.best.exp().numpy()
    with together(Path("reports", name)) as folder:
        macro_f1 = write_reports(folder, labels.numpy(), given.named.numpy(), packed.classes)
        predictions.to_parquet(folder / "predictions.parquet", index=False)
        draw_samples(folder / "samples.png", packed, rows, predictions)
        write_json(
            folder / "metrics.json",
            {
                "accuracy": accuracies[0],
                "loss": loss,
                "macro_f1": macro_f1,
                "parameters": model.about["parameters"],
                "trainable_parameters": model.about["trainable_parameters"],
                **over_seeds(accuracies),
            },
        )
    say(f"{name}: accuracy {accuracies[0]:.4f}, loss {loss:.4f} on {len(rows):,} test images")
    if over := over_seeds(accuracies):
        say(f"over {len(accuracies)} seeds: accuracy {over['accuracy_mean']:.4f} ± {over['accuracy_sd']:.4f}")


def write_reports(folder: Path, truth: np.ndarray, named: np.ndarray, classes: list[str]) -> float:
    """Of the class of each image and the one that was named, both (N,) int64. Returns the macro F1."""
    from scipy.sparse import coo_array
    from sklearn.metrics import classification_report

    options = {"labels": range(len(classes)), "target_names": classes, "zero_division": 0.0}
    report = classification_report(truth, named, output_dict=True, **options)
    write_json(folder / "classification_report.json", report)
    text = classification_report(truth, named, digits=4, **{**options, "target_names": list(map(printable, classes))})
    (folder / "classification_report.txt").write_text(text)
    # of 10,000 classes nearly all of 100 million cells are empty
    counts = coo_array((np.ones(len(truth), np.int64), (truth, named)), shape=(len(classes),) * 2).tocsr()
    write_confusion(folder / "confusion_matrix.csv", counts, classes)
    figures.draw_confusion_matrix(folder / "confusion_matrix.png", counts, classes)
    return float(report["macro avg"]["f1-score"])


def write_confusion(path: Path, counts: csr_array, classes: list[str]) -> None:
    """The diagonal first, which gives the axes of a plot their order; then the other cells that are not empty."""
    import pandas as pd

    cells = counts.tocoo()
    wrong = cells.row != cells.col
    names, every = np.array([*map(escape_formula, classes)], object), np.arange(len(classes))
    pd.DataFrame(
        {
            "actual": names[np.concatenate([every, cells.row[wrong]])],
            "predicted": names[np.concatenate([every, cells.col[wrong]])],
            "count": np.concatenate([counts.diagonal(), cells.data[wrong]]),
        }
    ).to_csv(path, index=False)


def over_seeds(accuracies: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation, where a config was trained with several seeds."""
    if len(accuracies) == 1:
        return {}
    return {
        "seeds": len(accuracies),
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_sd": float(np.std(accuracies, ddof=1)),
    }


def draw_samples(path: Path, packed: PackedDataset, rows: np.ndarray, predictions: pd.DataFrame) -> None:
    """Evenly spaced test images, titled green where the prediction is right and red where it is wrong."""
    tiles = []
    for position in np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int):
        row = predictions.iloc[position]
        right = row.label == row.predicted
        predicted, label = figures.short(row.predicted, 18), figures.short(row.label, 18)
        title = f"{predicted} {row.probability:.0%}" + ("" if right else f"\nis {label}")
        tiles.append(figures.Tile(packed.images[rows[position]], title, "green" if right else "red"))
    figures.draw_grid(path, tiles)


if __name__ == "__main__":
    run_stage("evaluate", main, "EXPERIMENT", __doc__)
