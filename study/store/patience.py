"""Trying again what a storage refused, for a stated time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from study.errors import StorageError

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds; each is twice the one before
POLL_SECONDS = 0.1


class GaveUp(StorageError):
    """A storage refused for longer than one was to wait, or the user would not wait."""

    passing = False


def to_stderr(text: str) -> None:
    """Where there is no live view yet."""
    print(text, file=sys.stderr, flush=True)


class Patience:
    """Tries again for so many ``seconds``, with growing pauses; 0 is not at all.

    ``say`` is told at once what is refused, and when it works again. ``stopped`` says whether the
    user waits no longer. Threads share one: an outage is said once. In another process, where a
    pickled one arrives, it only waits.
    """

    def __init__(self, seconds: float = 0.0, say: Callable[[str], None] = to_stderr) -> None:
        self.seconds, self.say = seconds, say
        self.stopped: Callable[[], bool] = lambda: False
        self._lock, self._waiting = threading.Lock(), 0

    def __reduce__(self) -> tuple[type[Patience], tuple[float]]:
        """Without what belongs to a process: its threads and its terminal."""
        return Patience, (self.seconds,)

    def call(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, once it is not refused.

        Raises:
            GaveUp: it was refused for as long as this waits.
            StorageError: nothing is waited for, or the refusal will not pass.
        """
        try:
            return action()
        except StorageError as error:
            if not (error.passing and self.seconds):
                raise
            return self._insist(action, error)

    def _insist(self, action: Callable[[], T], error: StorageError) -> T:
        began, pause = time.monotonic(), FIRST_PAUSE
        self._enter(error)
        try:
            while self._pause(min(pause, began + self.seconds - time.monotonic())):
                try:
                    result = action()
                except StorageError as again:
                    if not again.passing:
                        raise
                    error, pause = again, min(2 * pause, LONGEST_PAUSE)
                else:
                    self._leave(time.monotonic() - began)
                    return result
            waited = time.monotonic() - began
            text = f"{error}; tried for {waited:.0f} s; the study is paused, --resume goes on"
            raise GaveUp(text) from error
        finally:
            with self._lock:
                self._waiting -= 1

    def _pause(self, seconds: float) -> bool:
        """Wait; whether to try again after it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.stopped():
            time.sleep(min(left, POLL_SECONDS))
        return seconds > 0 and not self.stopped()

    def _enter(self, error: StorageError) -> None:
        with self._lock:
            self._waiting += 1
            first = self._waiting == 1
        if first:
            self.say(f"{error}; trying again for {self.seconds:.0f} s, Ctrl-C ends the study")

    def _leave(self, seconds: float) -> None:
        with self._lock:
            last = self._waiting == 1
        if last:
            self.say(f"the storage takes files again, after {seconds:.1f} s")
