"""A storage that takes no files of trials: nothing starts until it does, for a stated time."""

from __future__ import annotations

import time
from collections.abc import Callable

from study.errors import StorageError
from study.store.patience import FIRST_PAUSE, LONGEST_PAUSE


class Hold:
    """Begins when a worker's file is refused; asks the storage with a ``probe`` until it works.

    Meanwhile it is ``closed``; after ``seconds`` it is ``over``. They count on until a file is
    stored: a probe may fit where files do not.
    """

    def __init__(
        self, probe: Callable[[], None], seconds: float, say: Callable[[str], None]
    ) -> None:
        self._probe, self._seconds, self._say = probe, seconds, say
        self._since: float | None = None
        self.closed, self._pause, self._next = False, FIRST_PAUSE, 0.0

    def begin(self, error: str) -> None:
        """A file was refused."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._pause = now, FIRST_PAUSE
            self._say(
                f"{error}; no trial starts until it works, {self._seconds:.0f} s at most; "
                "Ctrl-C ends the study"
            )
        self.closed, self._next = True, now + self._pause

    def stored(self) -> None:
        """A file was stored: the trouble is over."""
        self._since = None

    def lifted(self) -> bool:
        """Whether trials may start."""
        now = time.monotonic()
        if not self.closed or now < self._next:
            return not self.closed
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        try:
            self._probe()
        except StorageError:
            self._next = time.monotonic() + self._pause
            return False
        self.closed = False
        self._say("the storage takes files again")
        return True

    @property
    def over(self) -> bool:
        """Whether it was refused for as long as one was to wait."""
        since = self._since
        return since is not None and time.monotonic() - since >= self._seconds
