"""Stage `evaluate`: report how good a model is on validation images, which it is chosen by, and on test images."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config import params
from pipeline.evaluation import figures
from pipeline.evaluation.metrics import Side
from pipeline.system import portable
from pipeline.system.console import UserError, printable, say
from pipeline.system.csv_cells import escape_formula
from pipeline.system.outputs import together, write_json

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.model import Model

SAMPLES = 24  # images on the grid of sample predictions


def main(name: str) -> None:
    config = params.load().experiment(name)
    if config.compute.portable:
        portable.pin_torch(name)

    from pipeline.dataset.batches import Batches, resident_budget
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.inference import answers
    from pipeline.evaluation.model import Model, check_files
    from pipeline.system.device import make_deterministic, select_device

    device, threads = select_device(config.compute)
    make_deterministic(device, threads, portable=config.compute.portable)
    packed = PackedDataset(Path("data/packed", config.dataset), Path("data/splits", f"{config.dataset}.parquet"))
    packed.verify()
    model = Model(Path("models", name))
    check_model(name, config, model, packed)
    check_files(model.folder, Path("reports", name, "provenance.json"), model.stage)
    sides = [Side(split, packed.rows(split)) for split in ("val", "test")]
    if not len(sides[-1].rows):
        raise UserError(f"{config.dataset} has no test images: raise datasets.{config.dataset}.split.test")
    if config.train_on_val or not len(sides[0].rows):  # images that it trained on say nothing about a model
        del sides[0]

    budget = resident_budget(device)
    for number, file in enumerate([None, *model.other_seeds()]):
        if file:
            model.load(file)
        network = model.network.to(device)
        for side in sides:
            data = Batches(packed, side.rows, model.mean, model.std, device, budget)
            side.add(answers(network, data, model.tta), data.labels.cpu())
            if not number and not math.isfinite(side.loss):
                wrong = f"the loss of models/{name} on {side.split} images is {side.loss}"
                raise UserError(f"{wrong}: train it with a lower optimizer.lr")
    test = sides[-1]
    predictions = predictions_of(sides, packed)
    with together(Path("reports", name)) as folder:
        absent = write_reports(folder, test.labels, test.predicted, packed.classes)
        predictions.to_parquet(folder / "predictions.parquet", index=False)
        draw_samples(folder / "samples.png", packed, test.rows, predictions[predictions.split == "test"])
        counts = {key: model.about[key] for key in ("parameters", "trainable_parameters")}
        seeds = {"seeds": config.seeds} if config.seeds > 1 else {}
        metrics = {side.split: side.metrics() for side in sides}
        write_json(folder / "metrics.json", {**metrics, **counts, **seeds})
        write_json(folder / "summary.json", summary(name, metrics))
    for side in sides:
        say(f"{name}: {side}")
    if absent:
        say(f"{name}: no test images of {', '.join(absent)}")


def check_model(name: str, config: Experiment, model: Model, packed: PackedDataset) -> None:
    """Raises UserError where the model was not trained on these images, or not by this config."""
    if model.classes != packed.classes:
        raise UserError(f"models/{name} knows other classes than data/splits/{config.dataset}.parquet: run dvc repro")
    if model.shape[:3] != (packed.meta["channels"], packed.meta["height"], packed.meta["width"]):
        raise UserError(f"models/{name} takes images of another size than data/packed/{config.dataset}: run dvc repro")
    if (trainings := 1 + len(model.other_seeds())) != config.seeds:
        raise UserError(
            f"models/{name} holds {trainings} trainings, params.yaml wants seeds = {config.seeds}: run dvc repro"
        )


def predictions_of(sides: list[Side], packed: PackedDataset) -> pd.DataFrame:
    """A row for each image: path, split, label, predicted class and its probability."""
    import pandas as pd

    rows = np.concatenate([side.rows for side in sides])
    predictions = packed.table.loc[rows, ["path", "split", "label"]].reset_index(drop=True)
    predicted = np.concatenate([side.predicted for side in sides])
    predictions["predicted"] = pd.Series(np.array(packed.classes, object)[predicted])
    predictions["probability"] = np.concatenate([side.probability for side in sides])
    return predictions


def summary(name: str, metrics: dict[str, dict[str, float]]) -> dict[str, object]:
    """The few numbers by which people compare experiments.

    In the table of `dvc exp show`, a key that several files have gets the path of its file before it, so the keys here
    start with the name of the experiment. `dvc metrics diff` sorts keys, and `name_test` comes after `name.val`.
    """
    accuracy = ["accuracy_mean", "accuracy_sd"] if "accuracy_mean" in metrics["test"] else ["accuracy"]
    test = {key: metrics["test"][key] for key in accuracy}
    if "val" not in metrics:
        return {f"{name}_test": test}
    val = {key: metrics["val"][key] for key in (*accuracy, *(["loss"] if len(accuracy) == 1 else []))}
    return {name: {"val": val}, f"{name}_test": test}


def write_reports(
    folder: Path, truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: list[str]
) -> list[str]:
    """Write the classification report and the confusion matrix of the test images.

    `truth` and `predicted` are the true and the predicted class of each image, both (N,) int64. Returns the names of
    the classes that no image is of. Those that are not predicted either are left out of the report, so that its macro
    average is scikit-learn's.
    """
    from scipy.sparse import coo_array
    from sklearn.metrics import classification_report

    present = np.union1d(truth, predicted)
    names = [classes[number] for number in present]
    options = {"labels": present, "target_names": names, "zero_division": 0.0}
    report = classification_report(truth, predicted, output_dict=True, **options)
    write_json(folder / "classification_report.json", report)
    text = classification_report(truth, predicted, digits=4, **{**options, "target_names": list(map(printable, names))})
    absent = [printable(classes[number]) for number in np.setdiff1d(np.arange(len(classes)), truth)]
    if absent:
        text += f"\nno test images: {', '.join(absent)}\n"
    (folder / "classification_report.txt").write_text(text)
    # sparse, because nearly all of the 100 million cells of 10,000 classes are empty
    counts = coo_array((np.ones(len(truth), np.int64), (truth, predicted)), shape=(len(classes),) * 2).tocsr()
    write_confusion(folder / "confusion_matrix.csv", counts, classes)
    figures.draw_confusion_matrix(folder / "confusion_matrix.png", counts, classes)
    return absent


def write_confusion(path: Path, counts: csr_array, classes: list[str]) -> None:
    """Write the cells of the matrix: the diagonal first, which gives the axes of a plot their order, then all others
    that are not empty.
    """
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


def draw_samples(path: Path, packed: PackedDataset, rows: NDArray[np.int64], predictions: pd.DataFrame) -> None:
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
