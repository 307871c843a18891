"""The entry point of stages and commands. They import it first, so that Ctrl-C prints no traceback during imports."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

status: int | None = None  # with which the process ends, once `console.run` knows it


def run_stage(stage: str, main: Callable[[str], None], argument: str, doc: str | None) -> NoReturn:
    """Run `main` with the name from the command line, while no other process runs the same stage with that name.

    `argument` is what --help calls the name, `doc` the module's docstring. Exits as `console.run` does.
    """
    from pipeline.system.console import run
    from pipeline.system.lock import alone

    def locked() -> None:
        name = parse_name(stage, argument, doc)
        with alone(f"{stage}@{name}"):
            main(name)

    run(locked)


def parse_name(stage: str, argument: str, doc: str | None) -> str:
    """The only argument of a stage. Exits with --help, or if there is none."""
    parser = command_line(stage, doc)
    parser.add_argument("name", type=name_in, metavar=argument, help=f"a name, or DVC's form of it: {stage}@NAME")
    name: str = parser.parse_args().name
    return name


def command_line(module: str, doc: str | None) -> ArgumentParser:
    """A parser for `python -m pipeline.MODULE` whose --help shows the module's docstring."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    return ArgumentParser(f"python -m pipeline.{module}", description=doc, formatter_class=RawDescriptionHelpFormatter)


def name_in(argument: str) -> str:
    """The name of a data set or an experiment in an argument, which may also be DVC's name of a stage: check@digits."""
    return argument.rpartition("@")[2]


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replaces sys.excepthook. Prints one line for Ctrl-C during imports, when `console.run` does not yet handle it.

    Any other exception is printed with its traceback, but without control characters and credentials.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        os._exit(130)
    import traceback

    from pipeline.system.console import say

    for part in traceback.format_exception(kind, error, trace):
        say(*part.splitlines(), file=sys.stderr)


def is_program() -> bool:
    """Whether this process runs a module of the package, or multiprocessing started it for one that does.

    Both have the module's path as their first argument. A test or a notebook that imports the package does not.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.dirname(sys.argv[0]) == package


def leave() -> None:
    """End this process at once. To free every object of torch or MLflow first would take 0.5 s."""
    if status is not None:
        with suppress(OSError):  # where stdout can't be written, Python reports that when it ends as usual
            sys.stdout.flush()
            os._exit(status)


if is_program():
    sys.excepthook = end_quietly
    atexit.register(leave)  # first, so that it is called last
