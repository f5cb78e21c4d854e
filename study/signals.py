"""Ctrl-C and SIGTERM end a study in good order; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, a first signal is noted in ``caught`` and passed on; a second one raises.

    In another thread than the main one, where Python takes no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._stop: Callable[[str], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        """Take the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Take the handlers again: ``ray.init`` puts one of its own on SIGTERM."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextmanager
    def calling(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Within the block, ``stop`` is told the reason, also of a signal that came before."""
        self._stop = stop
        if self.caught is not None:
            stop(_reason(self.caught))
        try:
            yield
        finally:
            self._stop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number
        if self._stop is not None:
            self._stop(_reason(number))


class Interrupted(BaseException):
    """A signal came during work that can't go on later where it stopped.

    No :class:`Exception`: code that goes on after whatever a model raises would swallow it.
    """


def leave(reason: str) -> None:
    """What :meth:`Interrupts.calling` takes to leave such work at once.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(reason)


def _reason(number: int) -> str:
    return f"by {signal.Signals(number).name}; --resume goes on"
