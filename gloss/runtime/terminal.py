"""Text that is safe to print, error remedies, and exit statuses."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from gloss.errors import ConfigError, DataError, RunError
from gloss.runtime.signals import Interrupted, raise_on_signal


def program(name: str) -> str:
    """The words that start a command: a script of the checkout, or the console script of an installed package."""
    return f"python scripts/{name}.py" if (Path(__file__).parents[2] / "scripts").is_dir() else f"gloss-{name}"


def escape_control_characters(text: object) -> str:
    """`text` without anything that could steer a terminal: control and invisible characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


_REMEDIES = {
    errno.ENOSPC: "free some space there, or set paths.outputs to a folder elsewhere; the same command then goes on",
    errno.EDQUOT: "your quota there is used up: free some space, or set paths.outputs to a folder elsewhere",
    errno.EFBIG: "files there may not grow as large as this one has to: raise `ulimit -f`, or set paths.outputs",
    errno.EROFS: "nothing can be written there: set paths.outputs to a folder that can",
    errno.EACCES: "it is not yours to use: change its permissions, or set paths.outputs to another folder",
    **dict.fromkeys(
        (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS),
        "this file system gives no locks, which keep two processes from one file: choose a folder on a local disk with "
        "paths.outputs (for make: OUTPUTS), for texts with GLOSS_DATA_DIR",
    ),
    errno.EMFILE: "raise the limit of open files: `ulimit -n 4096`",
}


def explain(error: BaseException) -> str:
    """The error's own text, and a remedy where it is an error of the operating system."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: {_REMEDIES[error.errno]}"
    return str(error)


class _Outlasting:
    """A stream that discards output after its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # else the exit would fail on the rest in its buffer


def is_live() -> bool:
    """Whether this process has a terminal to itself: a worker of a sweep shares it, and a log or pipe takes lines."""
    return multiprocessing.parent_process() is None and sys.stdout.isatty() and sys.stderr.isatty()


@contextlib.contextmanager
def announced(phase: str) -> Iterator[None]:
    """Show `phase` on a terminal while the block runs."""
    if is_live():
        print(f"{phase} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if is_live():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def show_what_can_be_shown() -> None:
    """Print a ? for characters that a terminal or log cannot encode, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Keep going when a pipe is closed or a terminal is gone, since runs take days; only their output is lost."""
    show_what_can_be_shown()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Outlasting(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def run_with_exit_code(task: Callable[[], int | None], ends_early: str = "") -> int:
    """Run `task` and return the exit status: 2 for a mistake of the user's, 1 for a failure, 128 + n for signal n.

    ends_early: text after "stopped by SIGTERM", of a task that goes on when its readers have gone.
    """
    show_what_can_be_shown()
    try:
        with raise_on_signal():
            return task() or 0
    except (Exception, Interrupted) as error:
        if stop := _interruption(error):
            print(f"error: stopped by {stop}{ends_early}", file=sys.stderr)
            return 128 + stop.number
        if isinstance(error, BrokenPipeError) and not ends_early:  # `… | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if not is_expected(error):
            raise
        print("error:", "\n".join(map(escape_control_characters, explain(error).splitlines())), file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _interruption(error: BaseException | None) -> Interrupted | None:
    """The signal behind an error: a library's `finally` may raise its own error in place of Interrupted."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def is_expected(error: BaseException) -> bool:
    """Whether the message alone is enough for the user, so that a traceback would only hide it."""
    return isinstance(error, (ConfigError, DataError, RunError)) or (
        isinstance(error, OSError) and error.errno is not None  # not a library's
    )
