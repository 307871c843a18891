"""Compare experiments by their results: a table with validation images first, by which one is chosen.

An experiment may be a pattern: 'digits-*'. Of two experiments of one data set, and of one experiment before and after a
change (--before HEAD), it also says whether they differ by more than chance, by the validation images that both saw.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import params
from pipeline.config.patterns import matching
from pipeline.evaluation import pictures
from pipeline.evaluation.paired import Paired, pair
from pipeline.evaluation.stored import FILE, IMAGE, check_predictions, read_val
from pipeline.system import readers
from pipeline.system.console import UserError, aligned, one_line, run, say

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("accuracy", "loss", "macro_f1")
DRAWN = 240  # images: more can't be looked at, and take minutes to draw


def main() -> None:
    parser = command_line("compare", __doc__)
    parser.add_argument("--before", metavar="REV", help="compare one experiment with what it was at a commit of git")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw the images that only one of two gets right")
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="a name or a pattern; none: all")
    arguments = parser.parse_args()
    if arguments.grid is not None:
        pictures.check("--grid", arguments.grid)
    patterns = arguments.experiments or ["*"]
    known = params.load().experiments
    names = matching(patterns, known, "params.yaml has no experiment")
    results = {name: metrics for name in names if (metrics := read_metrics(name)) is not None}
    absent = [name for name in patterns if name in known and name not in results]
    if absent or not results:
        raise UserError(f"no results of {', '.join(absent or patterns)}: run dvc repro evaluate@EXPERIMENT")
    say(*table(results))

    if arguments.before is not None and len(results) != 1:
        raise UserError(f"--before compares one experiment with itself; found {', '.join(results)}")
    two = list(dict.fromkeys(name for name in arguments.experiments if name in results))
    if arguments.before is not None:
        (name,) = results
        before = read_before(name, arguments.before)
        predictions = {f"{name} at {arguments.before}": before, name: read_predictions(name)}
    elif len(two) == 2 == len(results) and len({known[name].dataset for name in two}) == 1:
        if len({known[name].folds for name in two}) == 2:
            raise UserError(
                f"only one of {' and '.join(two)} has folds = all, so they were validated on other images: expected"
                " both with it, or both without"
            )
        predictions = {name: read_predictions(name) for name in two}
    elif arguments.grid:
        raise UserError("--grid draws what two experiments of one data set differ in: name two, or one with --before")
    else:
        if len(two) == 2 == len(results):
            datasets = " and ".join(known[name].dataset for name in two)
            say("", f"No verdict: {' and '.join(two)} are of different data sets, {datasets}.")
        return
    counts, changed = compare(predictions)
    first = "by the first training of each"
    how = "each by the training that left its fold out" if all(known[name].folds for name in results) else first
    say("", *in_words(counts, how, *predictions))
    if arguments.grid:
        draw(arguments.grid, known[next(iter(results))].dataset, predictions, changed)


def read_metrics(name: str) -> dict[str, Any] | None:
    """The content of metrics.json; None where the experiment never ran. Raises UserError where it is damaged."""
    return readers.read_metrics(name) if Path("reports", name, "metrics.json").exists() else None


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Lines with aligned columns, in the order of `params.yaml`."""
    heads = [f"{split} {column}" for split in ("val", "test") for column in COLUMNS]
    rows = [["experiment", *heads, "parameters"]]
    for name, metrics in results.items():
        values = [cell(metrics.get(split, {}), column) for split in ("val", "test") for column in COLUMNS]
        rows.append([name, *values, f"{metrics['parameters']:,}"])
    return aligned(rows, right=range(1, len(rows[0])))


def cell(metrics: dict[str, float], column: str) -> str:
    """A metric with four digits; mean and standard deviation where there are several seeds."""
    if {f"{column}_mean", f"{column}_sd"} <= metrics.keys():
        return f"{metrics[f'{column}_mean']:.4f} ± {metrics[f'{column}_sd']:.4f}"
    return f"{metrics[column]:.4f}" if column in metrics else "-"


def read_predictions(name: str, content: Path | None = None) -> pd.DataFrame:
    """What an experiment says of validation images, a row for each, sorted by path.

    `content` is another file than that of the workspace. Raises UserError where there are none.
    """
    if content is None:
        check_predictions(name)
    chosen: pd.DataFrame = read_val(content or Path("reports", name, FILE), f"evaluate@{name}").to_pandas()
    if chosen.empty:
        raise UserError(
            f"{name} has no predictions of validation images, by which to choose: it trains on all,"
            " or none are split off"
        )
    return chosen.sort_values("path", ignore_index=True)


def read_before(name: str, revision: str) -> pd.DataFrame:
    """The same at a commit of git, from DVC's cache or remote."""
    import tempfile

    from dvc.api import read
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    if not revision:  # a variable of the shell that is not set
        raise UserError("--before '': expected a commit of git, as HEAD")
    path = f"reports/{name}/{FILE}"
    try:
        content = read(path, rev=revision, mode="rb")
    except (DvcException, SCMError, OSError, AttributeError) as error:  # AttributeError: of a revision that is a file
        raise UserError(
            f"{path} can't be read at {revision} ({one_line(error)}): expected a commit whose results are in DVC's"
            " cache or remote"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{name} at {revision}.parquet".replace("/", "-"))
        file.write_bytes(content)
        return read_predictions(name, file)


def compare(predictions: dict[str, pd.DataFrame]) -> tuple[Paired, pd.DataFrame]:
    """The counts, and a row for each image that only one of the two gets right, with what both say.

    Raises UserError unless both are of the same images, labeled alike.
    """
    (first_name, first), (second_name, second) = predictions.items()
    if not first[[*IMAGE]].equals(second[[*IMAGE]]):
        shared = len(set(first.path) & set(second.path))
        raise UserError(
            f"{first_name} and {second_name} were not validated on the same images ({len(first)} and {len(second)},"
            f" {shared} paths shared, or other pixels or labels under them): their accuracies say nothing about each"
            " other; run dvc repro"
        )
    counts, differing = pair(first, second)
    changed = first.loc[differing, ["path", "label", "predicted"]]
    return counts, changed.assign(other=second.predicted[differing])


def in_words(counts: Paired, how: str, first: str, second: str) -> Iterator[str]:
    low, high = (100 * bound for bound in counts.interval())
    yield f"On the same {counts.images:,} validation images, {how}:"
    yield f"  both right {counts.both:,}, only {first} {counts.only_first:,}, only {second} {counts.only_second:,}," + (
        f" neither {counts.neither:,}"
    )
    yield f"  {second} is {100 * counts.difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}),"
    yield f"  McNemar's exact test: p = {counts.p_value():.2g}"
    words = {"better": f"better than {first}", "worse": f"worse than {first}"}
    verdict = counts.verdict()
    yield f"{second} is {words.get(verdict, f'{verdict} from {first}')} by these images."


def draw(path: Path, dataset: str, predictions: dict[str, pd.DataFrame], changed: pd.DataFrame) -> None:
    """Draw the images that only one of the two gets right, titled with their class and what each of the two says."""
    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation import grid

    packed = PackedDataset.of(dataset)
    position = {path: row for row, path in enumerate(packed.index["path"].to_pylist())}
    if missing := [each for each in changed.path if each not in position]:
        raise UserError(f"{missing[0]} is not in data/packed/{dataset}: run dvc repro pack@{dataset}")
    tiles = []
    columns = [changed[column].head(DRAWN).tolist() for column in ("path", "label", "predicted", "other")]
    for image, label, *said in zip(*columns, strict=True):
        before, after = (grid.short(each, 18) for each in said)
        title = f"is {grid.short(label, 18)}\n{before} → {after}"
        tiles.append(grid.Tile(packed.images[position[image]], title, "green" if said[1] == label else "red"))
    grid.draw_grid(path, tiles, software=pictures.MARK)
    of = f"the first {DRAWN} of " if len(changed) > DRAWN else ""
    images = f"{of}{len(changed)} image{'s' * (len(changed) != 1)}"
    say(f"{path}: {images} that only one of them gets right; green: {list(predictions)[1]}")


if __name__ == "__main__":
    run(main)
