"""Classify photos with a trained model: files, folders, patterns, lists, or paths on standard input (-)."""

from __future__ import annotations

from pipeline.system.entry import command_line

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.evaluation import pictures
from pipeline.prediction import inputs, tables
from pipeline.prediction.classify import UNSURE, Answer, classify
from pipeline.prediction.score import Score
from pipeline.system import workers
from pipeline.system.console import UserError, progress, run, say

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model
    from pipeline.prediction.grids import Grid


def main() -> int:
    arguments = parse()
    # a file's name may have letters that the terminal has not; JSON is UTF-8 everywhere
    encoding = {"encoding": "utf-8"} if arguments.json else {}
    sys.stdout.reconfigure(errors="backslashreplace", **encoding)  # type: ignore[union-attr]
    found = inputs.find(arguments.images, arguments.files_from)
    workers.warm_up("pipeline.prediction.pixels")
    model = open_model(arguments)
    threshold = choose_threshold(arguments, model)
    score = Score(model.classes, threshold) if arguments.score else None
    top = min(arguments.top, len(model.classes))
    columns = tables.Columns(top, threshold, score.label_of if score else None)
    grids = list(open_grids(arguments, model))

    count = broken = 0
    with ExitStack() as stack:
        takers = [*takers_of(arguments, columns, stack), *([score.add] if score else []), *(grid.add for grid in grids)]
        answers: Iterable[Answer] = classify(model, found, top)
        if not (prints_lines(arguments) and sys.stdout.isatty()):  # lines would tear the bar apart
            answers = progress(answers, total=len(found.files), unit=" files")
        for answer in answers:
            count += 1
            if answer.error is not None:
                broken += 1
                say(f"{answer.path}: {answer.error}", file=sys.stderr)
            for take in takers:
                take(answer)
        found.say_left_out()
        if not count:
            raise UserError(f"no images in {inputs.in_words(arguments.images, arguments.files_from)}")
    if arguments.output:
        said = f"{arguments.output}: {count:,} rows, {broken:,} of files that can't be read"
        say(said, file=sys.stderr if arguments.json else None)
    for grid in grids:
        grid.draw()
    if score:
        say(*score.report())
        if problems := score.problems():
            say(problems, file=sys.stderr)
    sys.stdout.flush()  # here a closed pipe is noticed without a traceback
    return 1 if found.without or broken or (score and score.unknown) else 0


def parse() -> Namespace:
    """The command line. Raises UserError for values that make no sense."""
    parser = command_line("predict", __doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="models/EXPERIMENT")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="tell the K most probable classes")
    sure = parser.add_mutually_exclusive_group()
    sure.add_argument("--threshold", type=float, metavar="P", help=f"below this probability, say `{UNSURE}`")
    sure.add_argument("--precision", type=float, metavar="P", help="the threshold that is so often right on val images")
    out = parser.add_mutually_exclusive_group()
    out.add_argument("--json", action="store_true", help="print one JSON list")
    out.add_argument("--score", action="store_true", help="print how good it is on files in one folder per class")
    parser.add_argument("--output", type=Path, metavar="OUT", help="write the answers to OUT.csv, .json or .parquet")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw the images with their classes")
    parser.add_argument("--explain", type=Path, metavar="OUT.png", help="draw where the network looks (Grad-CAM)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--files-from", action="append", default=[], metavar="LIST", help="a file with a path a line")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or patterns; -: paths on stdin")
    arguments = parser.parse_args()
    if not arguments.images and not arguments.files_from:
        parser.error("name files, folders or patterns, or a list of them with --files-from")
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}: expected 1 or more")
    for name in ("threshold", "precision"):
        if (value := getattr(arguments, name)) is not None and not 0 < value <= 1:
            raise UserError(f"--{name} {value:g}: expected a number above 0, and at most 1")
    for option in ("grid", "explain"):
        if (path := getattr(arguments, option)) is not None:
            pictures.check(f"--{option}", path)
    if arguments.grid and arguments.grid == arguments.explain:
        raise UserError(f"--grid and --explain both name {arguments.grid}: expected two files")
    if arguments.output:
        tables.check(arguments.output)
        for name in (*arguments.images, *arguments.files_from):
            if Path(name).resolve() == arguments.output.resolve():
                raise UserError(f"--output {arguments.output}: is what is to be read; name another file")
    return arguments


def open_model(arguments: Namespace) -> Model:
    """The model on the device that the command line asks for."""
    from torch import get_num_threads

    from pipeline.evaluation.model import Model
    from pipeline.system.device import make_deterministic, open_device

    device = open_device(arguments.device, "--device")
    make_deterministic(device, get_num_threads())
    model = Model(arguments.model)
    model.to(device)
    return model


def choose_threshold(arguments: Namespace, model: Model) -> float | None:
    """The threshold that is asked for, or chosen for a precision; None where every image gets a class."""
    if arguments.threshold is None and arguments.precision is None:
        return None
    if UNSURE in model.classes:
        raise UserError(f"{arguments.model} has a class {UNSURE!r} of its own: leave out --threshold and --precision")
    if arguments.precision is None:
        return float(arguments.threshold)
    from pipeline.prediction.thresholds import choose_for

    choice = choose_for(model, arguments.precision)
    say(str(choice), file=sys.stderr)
    return choice.threshold


def takers_of(arguments: Namespace, columns: tables.Columns, stack: ExitStack) -> Iterator[tables.Add]:
    """What takes the answers one by one: a file, a list on stdout, or lines."""
    if arguments.output:
        yield stack.enter_context(tables.write(arguments.output, columns))
    if arguments.json:
        yield stack.enter_context(tables.json_list(sys.stdout, columns))
    elif prints_lines(arguments):
        yield lambda answer: say_line(answer, columns.threshold)


def prints_lines(arguments: Namespace) -> bool:
    return not (arguments.json or arguments.score or arguments.output)


def say_line(answer: Answer, threshold: float | None) -> None:
    if answer.top:
        top = ", ".join(f"{each.label} {each.probability:.4f}" for each in answer.top)
        unsure = threshold is not None and answer.predicted(threshold) == UNSURE
        say(f"{answer.path}: " + (f"{UNSURE} ({top})" if unsure else top))


def open_grids(arguments: Namespace, model: Model) -> Iterator[Grid]:
    """The grids to draw. Raises UserError where the network can't be explained."""
    from pipeline.prediction.grids import Grid

    if arguments.grid:
        yield Grid(arguments.grid)
    if arguments.explain:
        from pipeline.prediction.explain import explainer

        yield Grid(arguments.explain, explainer(model))


if __name__ == "__main__":
    run(main)
