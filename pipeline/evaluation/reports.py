"""Reports as text and tables: the classification report, the confusion matrix, metrics of each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.system.console import printable
from pipeline.system.csv_cells import escape_formula
from pipeline.system.outputs import write_json

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from pipeline.evaluation.metrics import SplitResults
    from pipeline.evaluation.predictions import Predictions

CONFUSIONS = 50  # of a split, in confusions.csv


def absent(given: Predictions, classes: list[str]) -> list[str]:
    """The names of the classes that no image is of, to be printed."""
    return [printable(classes[number]) for number in np.setdiff1d(np.arange(len(classes)), given.labels)]


def write_classification_report(folder: Path, given: Predictions, classes: list[str]) -> None:
    """Write scikit-learn's report.

    Classes that no image is of and that are not predicted are left out, so that its macro average is scikit-learn's.
    """
    from sklearn.metrics import classification_report

    truth, predicted = given.labels, given.predicted
    present = np.union1d(truth, predicted)
    names = [classes[number] for number in present]
    options = {"labels": present, "target_names": names, "zero_division": 0.0}
    report = classification_report(truth, predicted, output_dict=True, **options)
    write_json(folder / "classification_report.json", report)
    text = classification_report(truth, predicted, digits=4, **{**options, "target_names": list(map(printable, names))})
    if missing := absent(given, classes):
        text += f"\nno test images: {', '.join(missing)}\n"
    (folder / "classification_report.txt").write_text(text, encoding="utf-8")


def confusion_counts(given: Predictions, classes: int) -> csr_array:
    """Images by true class, rows, and predicted class, columns: (classes, classes) int64.

    Sparse, because nearly all of the 100 million cells of 10,000 classes are empty.
    """
    from scipy.sparse import coo_array

    ones = np.ones(len(given.labels), np.int64)
    return coo_array((ones, (given.labels, given.predicted)), shape=(classes, classes)).tocsr()


def write_confusion(path: Path, counts: csr_array, classes: list[str]) -> None:
    """Write the cells of the matrix: the diagonal first, which gives the axes of a plot their order, then all others
    that are not empty.
    """
    import pandas as pd

    cells = counts.tocoo()
    wrong = cells.row != cells.col
    names, every = cell_names(classes), np.arange(len(classes))
    pd.DataFrame(
        {
            "actual": names[np.concatenate([every, cells.row[wrong]])],
            "predicted": names[np.concatenate([every, cells.col[wrong]])],
            "count": np.concatenate([counts.diagonal(), cells.data[wrong]]),
        }
    ).to_csv(path, index=False)


def top_confusions(results: SplitResults, classes: list[str]) -> pd.DataFrame:
    """The pairs of classes that are confused most, with the fraction of the images of `actual` that are."""
    import pandas as pd

    counts = confusion_counts(results.predictions, len(classes))
    cells = counts.tocoo()
    wrong = cells.row != cells.col
    actual, predicted, count = cells.row[wrong], cells.col[wrong], cells.data[wrong]
    most = np.argsort(-count, kind="stable")[:CONFUSIONS]
    names, images = cell_names(classes), results.table["images"].to_numpy()
    return pd.DataFrame(
        {
            "actual": names[actual[most]],
            "predicted": names[predicted[most]],
            "count": count[most],
            "share": count[most] / images[actual[most]],
        }
    )


def metrics_by_class(results: SplitResults, classes: list[str]) -> pd.DataFrame:
    return results.table.set_axis(cell_names(classes)).rename_axis("class").reset_index()


def escaped(sliced: pd.DataFrame) -> pd.DataFrame:
    return sliced.assign(slice=cell_names(sliced["slice"].tolist()))


def write_by_split(path: Path, splits: list[SplitResults], table: Callable[[SplitResults], pd.DataFrame]) -> None:
    """Write one table of all splits, val first, with the column `split` before the others."""
    import pandas as pd

    tables = []
    for results in splits:
        tables.append(table(results))
        tables[-1].insert(0, "split", results.split)
    pd.concat(tables).to_csv(path, index=False, float_format="%.6g")


def cell_names(classes: list[str]) -> NDArray[np.object_]:
    """The names of classes as cells of a CSV file."""
    return np.array([*map(escape_formula, classes)], object)
