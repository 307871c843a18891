"""Classify photos with a trained model."""

from __future__ import annotations

from pipeline.system.entry import command_line

import glob
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.decode import decode, to_size, upright
from pipeline.images.errors import ImageError
from pipeline.images.files import utf8
from pipeline.images.formats import SUFFIXES
from pipeline.images.items import is_clutter, is_visible
from pipeline.system.console import UserError, progress, run, say
from pipeline.system.outputs import json_text

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

BATCH = 64
NAMED = 10  # files that are left out
GRID = 240  # images: more can't be looked at, and take minutes to draw


def main() -> int:
    parser = command_line("predict", __doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="models/EXPERIMENT")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable classes")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw the images with their classes")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or patterns")
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}: expected 1 or more")
    # a file's name may have letters that the terminal has not; JSON is UTF-8 everywhere
    encoding = {"encoding": "utf-8"} if arguments.json else {}
    sys.stdout.reconfigure(errors="backslashreplace", **encoding)  # type: ignore[union-attr]
    left_out: list[str] = []
    found = {pattern: expand(pattern, left_out) for pattern in arguments.images}
    files = [file for pattern in arguments.images for file in found[pattern]]
    asked_for = ", ".join(map(repr, arguments.images))
    if not files:
        say_left_out(left_out)
        raise UserError(f"no files in {asked_for}")
    without = [pattern for pattern in found if not found[pattern]]
    for pattern in without:
        say(f"{pattern!r}: no files", file=sys.stderr)

    from pipeline.evaluation.model import Model

    model = Model(arguments.model)
    answers = []
    tiles: list[tuple[dict[str, Any], NDArray[np.uint8]]] = []
    named = set(map(Path, arguments.images))
    for answer, pixels in classify(model, files, named, left_out, arguments.top):
        answers.append(answer)
        if arguments.grid and pixels is not None and len(tiles) < GRID:
            tiles.append((answer, pixels))
        if "error" in answer:
            say(f"{answer['path']}: {answer['error']}", file=sys.stderr)
        elif not arguments.json:
            say(
                f"{answer['path']}: " + ", ".join(f"{p['class']} {p['probability']:.4f}" for p in answer["predictions"])
            )
    say_left_out(left_out)
    if not answers:
        raise UserError(f"no images in {asked_for}")
    if arguments.json:
        say(*json_text(answers).split("\n"))
    sys.stdout.flush()  # here a closed pipe is noticed without a traceback
    if arguments.grid:
        if len(tiles) == GRID < len(answers):
            say(f"{arguments.grid}: only the first {GRID} images", file=sys.stderr)
        draw(arguments.grid, tiles)
    return 1 if without or any("error" in answer for answer in answers) else 0


def expand(pattern: str, left_out: list[str]) -> list[Path]:
    """A file, the visible files of a folder and all below it, or what matches a pattern.

    Whatever else a folder holds, or a pattern matches, is added to `left_out`.
    """
    if not pattern:  # a variable that is not set, not this folder
        return []
    path = Path(pattern)
    if path.exists() or not glob.has_magic(pattern):
        # a file that is missing is reported like any that can't be read
        return list(files_at(path, [], left_out)) if path.is_dir() else [path]
    literally = pattern.replace("[", "[[]")  # a folder may have brackets in its name
    matches = sorted(glob.glob(literally, recursive=True) or glob.glob(pattern, recursive=True))
    # ** matches folder and file
    return list(dict.fromkeys(file for match in matches for file in files_at(Path(match), [], left_out)))


def files_at(path: Path, above: list[Path], left_out: list[str]) -> Iterator[Path]:
    """A file, or the visible files of a folder, also behind links. `above` are the folders around it, without links."""
    if path.is_dir():
        real = path.resolve()
        if real in above:
            left_out.append(f"{path} (a link to a folder around it)")
            return
        for inside in sorted(path.iterdir()):
            if is_visible(inside.name):
                yield from files_at(inside, [*above, real], left_out)
            else:
                left_out.append(f"{inside} (hidden)")
    elif path.is_file() or (path.is_symlink() and path.suffix.lower() in SUFFIXES):
        yield path  # also a link that leads nowhere: an image is missing
    else:
        left_out.append(f"{path} (not a file)")


def say_left_out(paths: list[str]) -> None:
    if paths:
        paths = list(dict.fromkeys(paths))
        more = [f"and {len(paths) - NAMED} more"] * (len(paths) > NAMED)
        say(f"left out: {', '.join([*map(utf8, paths[:NAMED]), *more])}", file=sys.stderr)


def classify(
    model: Model, files: list[Path], named: set[Path], left_out: list[str], top: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
    """For each file, in order: path and predictions, most probable first, or an error; and the pixels the model saw.

    Files that are no images and do not claim to be are added to `left_out`, unless they are `named`.
    """
    for start in progress(range(0, len(files), BATCH), unit=" batches"):
        chosen = files[start : start + BATCH]
        read = [read_image(file, model) for file in chosen]
        whole = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
        probabilities: Iterator[NDArray[np.float32]] = iter(model.probabilities(np.stack(whole)) if whole else ())
        for file, pixels in zip(chosen, read, strict=True):
            if isinstance(pixels, ImageError) and file not in named and is_clutter(file.name, [pixels.code]):
                left_out.append(f"{file} (no image)")
                continue
            if isinstance(pixels, ImageError | str):
                yield {"path": utf8(str(file)), "error": str(pixels)}, None
                continue
            each = next(probabilities)
            if not np.isfinite(each).all():
                yield {"path": utf8(str(file)), "error": "the network's logits of it are no finite numbers"}, None
                continue
            best = np.argsort(-each, kind="stable")[:top]
            predictions = [{"class": model.classes[number], "probability": float(each[number])} for number in best]
            yield {"path": utf8(str(file)), "predictions": predictions}, pixels


def read_image(file: Path, model: Model) -> NDArray[np.uint8] | ImageError | str:
    """Pixels (H, W, C) uint8 as the stage `pack` would have stored them, or why there are none."""
    try:
        image = decode(file.read_bytes(), file.name).image
        shape = model.shape
        upright_one = upright(image, shape.channels, model.color_profile)
        return to_size(upright_one, shape.height, shape.width, model.interpolation, model.fit)
    except ImageError as error:
        return error
    except OSError as error:
        return error.strerror or str(error)
    except MemoryError:
        return "not enough memory to decode it"


def draw(path: Path, answered: list[tuple[dict[str, Any], NDArray[np.uint8]]]) -> None:
    from pipeline.evaluation import figures

    tiles = []
    for answer, pixels in answered:
        best = answer["predictions"][0]
        name, named = figures.short(Path(answer["path"]).name, 22), figures.short(best["class"], 18)
        tiles.append(figures.Tile(pixels, f"{name}\n{named} {best['probability']:.0%}", "black"))
    figures.draw_grid(path, tiles)


if __name__ == "__main__":
    run(main)
