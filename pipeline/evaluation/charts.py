"""Charts of probabilities: whether they tell how often the model is right, and how well they rank images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.evaluation.calibration import binned
from pipeline.evaluation.grid import new_figure, save, short
from pipeline.system.console import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.evaluation.metrics import SplitResults

CURVES = 10  # classes: more lines can't be told apart


def draw_reliability(path: Path, splits: list[SplitResults]) -> None:
    """Accuracy by the probability of the predicted class, before and after calibration, and how many images have it."""
    from sklearn.calibration import CalibrationDisplay

    figure = new_figure(5.5 * len(splits), 6)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.09, top=0.94)  # a layout engine takes as long as drawing
    axes = figure.subplots(2, len(splits), squeeze=False, sharex=True, height_ratios=(3, 1))
    for (above, below), results in zip(axes.T, splits, strict=True):
        given = results.predictions
        for when, probability in (("before", given.uncalibrated), ("after", given.probability)):
            bins = binned(probability, given.correct)
            name = f"{when} temperature scaling, ECE {bins.error():.4f}"
            CalibrationDisplay(bins.accuracy, bins.probability, probability).plot(ax=above, name=name)
            below.hist(probability, bins=50, range=(0, 1), histtype="step", log=True)
        above.legend(loc="upper left")
        above.set(title=f"{results.split}: {len(given.labels):,} images", xlabel="", ylabel="fraction that is right")
        above.set(ylim=(-0.05, 1.35), yticks=[0, 0.25, 0.5, 0.75, 1])  # with room for the legend
        below.set(xlabel="probability of the predicted class", ylabel="images")
    save(figure, path)


def draw_curves(path: Path, splits: list[SplitResults], classes: list[str]) -> None:
    """ROC and precision-recall curves of each class against the rest; of many classes, those with the lowest AUC."""
    figure = new_figure(12, 5.5 * len(splits))
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.1 / len(splits), top=1 - 0.06 / len(splits), hspace=0.3)
    for row, results in zip(figure.subplots(len(splits), 2, squeeze=False), splits, strict=True):
        draw_curves_of(results, row, classes)
    save(figure, path)


def draw_curves_of(results: SplitResults, row: tuple[Axes, Axes], classes: list[str]) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

    given, areas = results.predictions, results.table["auc"].dropna().sort_values(kind="stable")
    shown = areas[:CURVES].sort_index()
    for number, area in zip(shown.index.to_numpy(int), shown, strict=True):
        assert given.probabilities is not None  # else no class had an area
        own, scores = given.labels == number, given.probabilities[:, number]
        name = short(printable(classes[number]), 24)
        false_positives, true_positives, _ = roc_curve(own, scores)
        row[0].plot(false_positives, true_positives, label=f"{area:.4f}  {name}")
        precision, recall, _ = precision_recall_curve(own, scores, drop_intermediate=True)
        row[1].plot(recall, precision, label=f"{average_precision_score(own, scores):.4f}  {name}")
    of = (
        f"{results.split}, the {CURVES} of {len(areas):,} classes with the lowest AUC"
        if len(areas) > CURVES
        else results.split
    )
    row[0].set(title=f"{of}: ROC", xlabel="false positive rate", ylabel="true positive rate")
    row[1].set(title=f"{of}: precision and recall", xlabel="recall", ylabel="precision")
    for axes, measure in zip(row, ("AUC", "average precision"), strict=True):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if not len(shown):
            axes.text(0.5, 0.5, "left out: one class only, or too many", ha="center")
            continue
        for text in axes.legend(title=measure, fontsize="small").get_texts():
            text.set_parse_math(False)
