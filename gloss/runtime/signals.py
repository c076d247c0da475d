"""SIGTERM and Ctrl-C: raised as an exception, so that blocks are cleaned up, or noted until a safe moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The process received a signal to stop: it exits with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)  # pickle passes it between processes

    def __str__(self) -> str:
        return signal.Signals(self.number).name


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise Interrupted at a signal, wherever the process is."""

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(number)

    with _handled_by(stop):
        yield


@contextmanager
def noted() -> Iterator[list[int]]:
    """Note signals in the list, for action between two steps; a second one takes effect at once."""
    pending: list[int] = []

    def note(number: int, _frame: object) -> None:
        pending.append(number)
        signal.signal(number, before[signal.Signals(number)])

    with _handled_by(note) as before:
        yield pending


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[dict[signal.Signals, Any]]:
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        # A signal that the caller has ignored (nohup, a job in the background) stays ignored.
        before |= {n: h for n in SIGNALS if (h := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)
