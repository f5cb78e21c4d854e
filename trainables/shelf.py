"""Where a trial's files are put, and how it is told that this cannot be done now."""

from __future__ import annotations

from typing import Protocol


class ShelfError(OSError):
    """A file could not be stored: the disk is full, the store does not answer, ...

    Not the trial's fault: it is raised through :class:`trainables.attempt.Attempt`, never an
    outcome, and whoever runs the trial runs it again once there is room.
    """


class Shelf(Protocol):
    """Where artifacts are put."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Store ``data`` under ``name``: all of it or nothing.

        Raises:
            ShelfError: it cannot be stored.
        """
