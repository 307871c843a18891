"""Stage `evaluate`: report how good a model is on validation images, which it is chosen by, and on test images."""

from __future__ import annotations

from pipeline.system.entry import run_stage

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import params
from pipeline.evaluation import charts, figures, galleries, reports, slices
from pipeline.evaluation.metrics import SplitResults
from pipeline.system import portable
from pipeline.system.console import UserError, say
from pipeline.system.outputs import together, write_json

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.model import Model


def main(name: str) -> None:
    everything = params.load()
    config = everything.experiment(name)
    if config.compute.portable:
        portable.pin_torch(name)

    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.model import Model
    from pipeline.evaluation.stored import FILE, check_files, write_predictions
    from pipeline.system.device import make_deterministic, select_device

    device, threads = select_device(config.compute)
    make_deterministic(device, threads, portable=config.compute.portable)
    packed = PackedDataset.of(config.dataset)
    packed.verify()
    model = Model(Path("models", name))
    check_model(name, config, model, packed)
    check_files(model.folder, Path("reports", name, "provenance.json"), model.stage)
    splits = measured(config, model, packed, device)
    group_by = everything.datasets[config.dataset].split.group_by
    rows = np.concatenate([results.predictions.rows for results in splits])
    properties = slices.properties_of(packed, rows, config.dataset)
    attributes = slices.attributes(packed, properties, config.dataset, group_by)
    sliced = {results.split: slices.accuracies(results.predictions, attributes) for results in splits}
    with together(Path("reports", name)) as folder:
        counts = {key: model.about[key] for key in ("parameters", "trainable_parameters")}
        trainings = {"folds": packed.folds} if config.folds else {"seeds": config.seeds} if config.seeds > 1 else {}
        metrics = {results.split: results.metrics for results in splits}
        write_json(folder / "metrics.json", {**metrics, **counts, **trainings})
        write_json(folder / "summary.json", summary(name, metrics))
        write_predictions(folder / FILE, predictions_of(splits, packed, properties["pixel_hash"]), model.folder)
        write_reports(folder, splits, sliced, packed.classes)
        draw(folder, splits, packed)
    for results in splits:
        say(f"{name}: {results}")
    say(*(f"{name}: worst slice of {splits[0].split}: {told}" for told in slices.worst(sliced[splits[0].split])))
    for results in splits:
        if missing := reports.absent(results.predictions, packed.classes):
            say(f"{name}: no {results.split} images of {', '.join(missing)}")
    if any(results.predictions.probabilities is None for results in splits):
        say(f"{name}: no AUC and no curves: the probabilities of all classes would take too much memory")


def measured(config: Experiment, model: Model, packed: PackedDataset, device: torch.device) -> list[SplitResults]:
    """The results of all trainings on val, if there are validation images that none trained on, and on test."""
    from pipeline.dataset.batches import Batches, resident_budget
    from pipeline.evaluation.predictions import predict
    from pipeline.system.device import enough_memory

    if not len(packed.rows("test")):
        raise UserError(f"{config.dataset} has no test images: raise datasets.{config.dataset}.split.test")
    splits = [SplitResults("test", len(packed.classes))]
    if not config.train_on_val and len(packed.rows("val")):  # images that it trained on say nothing about a model
        splits.insert(0, SplitResults("val", len(packed.classes), pools=bool(config.folds)))
    budget = resident_budget(device)
    for number, file in enumerate([None, *model.other_trainings()]):
        if file:
            model.load(file)
        # each fold is predicted by the model that did not train on it
        assigned = packed.with_fold(number) if config.folds else packed
        network = model.network.to(device)
        for results in splits:
            rows = assigned.rows(results.split)
            data = Batches(packed, rows, model.mean, model.std, device, budget)
            with enough_memory(f"the {results.split} images on {device}", "free some"):
                given = predict(network, data, rows, model.tta, model.temperature)
            del data  # before the images of the next split come into memory
            if not math.isfinite(loss := given.loss()):
                wrong = f"the loss of {file or model.folder} on {results.split} images is {loss}"
                raise UserError(f"{wrong}: train it with a lower optimizer.lr")
            results.add(given)
    return splits


def check_model(name: str, config: Experiment, model: Model, packed: PackedDataset) -> None:
    """Raises UserError where the model was not trained on these images, or not by this config."""
    if model.classes != packed.classes:
        raise UserError(f"models/{name} knows other classes than data/splits/{config.dataset}.parquet: run dvc repro")
    if model.shape[:3] != (packed.meta["channels"], packed.meta["height"], packed.meta["width"]):
        raise UserError(f"models/{name} takes images of another size than data/packed/{config.dataset}: run dvc repro")
    wanted, what = (packed.folds, "folds = all, that is") if config.folds else (config.seeds, "seeds =")
    if (trainings := 1 + len(model.other_trainings())) != wanted:
        raise UserError(f"models/{name} holds {trainings} trainings, params.yaml wants {what} {wanted}: run dvc repro")


def predictions_of(splits: list[SplitResults], packed: PackedDataset, pixel_hash: pd.Series) -> pd.DataFrame:
    """A row for each image: path, hash of its pixels, split, label, predicted class and its calibrated probability."""
    import pandas as pd

    given = [results.predictions for results in splits]
    predictions = packed.table.loc[np.concatenate([each.rows for each in given]), ["path", "split", "label"]]
    predictions = predictions.reset_index(drop=True)
    predictions.insert(1, "pixel_hash", pixel_hash.to_numpy())
    predictions["split"] = np.repeat([results.split for results in splits], [len(each.rows) for each in given])
    predicted = np.concatenate([each.predicted for each in given])
    predictions["predicted"] = pd.Series(np.array(packed.classes, object)[predicted])
    predictions["probability"] = np.concatenate([each.probability for each in given])
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
    folder: Path, splits: list[SplitResults], sliced: dict[str, pd.DataFrame], classes: list[str]
) -> None:
    """Write all reports in text and tables."""
    reports.write_by_split(folder / "per_class.csv", splits, lambda results: reports.metrics_by_class(results, classes))
    reports.write_by_split(folder / "confusions.csv", splits, lambda results: reports.top_confusions(results, classes))
    reports.write_by_split(folder / "slices.csv", splits, lambda results: reports.escaped(sliced[results.split]))
    test = splits[-1].predictions
    reports.write_confusion(folder / "confusion_matrix.csv", reports.confusion_counts(test, len(classes)), classes)
    reports.write_classification_report(folder, test, classes)


def draw(folder: Path, splits: list[SplitResults], packed: PackedDataset) -> None:
    """Draw all figures. Those to look for mistakes in are of val where there is one: test is for the end."""
    chosen_by = splits[0]
    counts = reports.confusion_counts(chosen_by.predictions, len(packed.classes))
    figures.draw_confusion_matrix(folder / "confusion_matrix.png", counts, packed.classes, chosen_by.split)
    galleries.draw_samples(folder / "samples.png", packed, splits[-1])
    galleries.draw_worst(folder / "gallery_worst.png", packed, chosen_by)
    galleries.draw_uncertain(folder / "gallery_uncertain.png", packed, chosen_by)
    charts.draw_reliability(folder / "reliability.png", splits)
    charts.draw_curves(folder / "curves.png", splits, packed.classes)


if __name__ == "__main__":
    run_stage("evaluate", main, "EXPERIMENT", __doc__)
