"""How a stage talks to the person at the terminal: errors in one line, progress bars, exit codes."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from pipeline.system import entry, parent
from pipeline.system.credentials import hide

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
stopped: KeyboardInterrupt | None = None  # what `stop` has raised
INTERRUPTED = 128 + signal.SIGINT  # exit codes, as shells report signals
TERMINATED = 128 + signal.SIGTERM
# What a person can mend: a full or failing disk, a missing permission, a file in the wrong place
THEIRS_TO_MEND = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG),
}


class UserError(Exception):
    """Something that the person can mend: what is wrong, what was expected, what to do, in one line."""


class MissingExtra(UserError):
    """An optional package is not installed."""


def require(what: str, *packages: str) -> None:
    """Raises MissingExtra unless the optional packages that `what` needs are installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"{what} needs the package {package}, which is not installed: run"
                f" `.venv/bin/uv pip install {' '.join(packages)}`"
            )


def printable(text: str) -> str:
    """The text with escapes for characters that control a terminal or can't be seen."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def one_line(text: object) -> str:
    """What an error says, without line breaks and cut to what a line has room for."""
    return " ".join(str(text).split())[:200]


def first_few(names: Sequence[str], most: int) -> str:
    """The names, separated by commas; of more than `most` the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def aligned(rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table whose columns are aligned left, and right where their number, from 0, is in `right`."""
    from tabulate import tabulate

    alignment = ["right" if column in right else "left" for column in range(len(rows[0]))]
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=alignment).splitlines()


def say(*lines: str, file: IO[str] | None = None) -> None:
    """Print lines to stdout or `file`, at once, without control characters and credentials, whatever they quote."""
    for line in lines:
        print(hide(printable(line)), file=file, flush=True)  # a pipe would hold it back


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM, which ends a stage as Ctrl-C does."""


def stop(number: int, _: object) -> NoReturn:
    """Handles Ctrl-C and SIGTERM."""
    global stopped
    stopped = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    sys.unraisablehook = stop_again
    raise stopped


def stop_again(dropped: sys.UnraisableHookArgs) -> None:
    """Replaces sys.unraisablehook: if Python has dropped the exception of `stop`, raise it again a moment later.

    Python drops exceptions that are raised while a `__del__` runs.
    """
    if dropped.exc_value is not stopped:
        sys.__unraisablehook__(dropped)
        return

    def repeat(*_: object) -> NoReturn:
        assert stopped is not None
        raise stopped

    signal.signal(signal.SIGALRM, repeat)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def stoppable(main: Callable[[], int | None]) -> int | None:
    """Call `main`. After Ctrl-C or SIGTERM, raise the exception of `stop`, even if a library has replaced it.

    While an extension module is imported, it may catch that exception and raise an error of its own.
    """
    try:
        return main()
    except Exception:
        if stopped is not None:
            raise stopped from None
        raise


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit: with 0 or its own status, 1 after a UserError, 130 after Ctrl-C, 143 after SIGTERM.

    None of these prints a traceback, nor does a machine that lacks memory or disk. If DVC has started this process, it
    ends when DVC does.
    """
    global stopped
    stopped = None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may be ASCII
    try:
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else Ctrl-C is not for this process
            signal.signal(signal.SIGINT, stop)
        parent.end_with_dvc()
        status = stoppable(main) or 0
    except UserError as error:
        say(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt as stopping:
        status, why = INTERRUPTED, "interrupted"
        if isinstance(stopping, Terminated):
            status, why = TERMINATED, "stopped, as DVC has ended" if parent.ENDED.is_set() else "terminated"
        with suppress(OSError):  # the reader of stderr may have ended too
            say(f"{why}: nothing half-written is left; run it again to go on", file=sys.stderr)
    except BrokenPipeError:  # the reader has ended, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except MemoryError:
        say("error: not enough memory: end other programs, or take a machine with more", file=sys.stderr)
        status = 1
    except OSError as error:
        if error.errno not in THEIRS_TO_MEND:
            raise
        say(f"error: {error.filename or 'standard output'}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        status = 1
    entry.status = status
    sys.exit(status)


@overload
def progress(items: None = None, **options: Any) -> tqdm[NoReturn]: ...
@overload
def progress(items: Iterable[T], **options: Any) -> tqdm[T]: ...
def progress(items: Iterable[T] | None = None, **options: Any) -> tqdm[T] | tqdm[NoReturn]:
    """A tqdm bar on stderr. It is not shown if stderr is no terminal, and disappears when it is done."""
    from tqdm import tqdm

    return tqdm(items, disable=None, leave=False, dynamic_ncols=True, **options)
