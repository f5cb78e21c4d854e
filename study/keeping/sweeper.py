"""Deletes the checkpoints of trials that have come to their end."""

from __future__ import annotations

from study.events import Answered, Ended, Event
from study.store.storage import Storage
from trainables.checkpoints import file_names


class Sweeper:
    """A :class:`study.loop.brief.View`: what has a record in the log needs no checkpoint."""

    def __init__(self, checkpoints: Storage) -> None:
        self._checkpoints = checkpoints

    def put(self, event: Event) -> None:
        """See :class:`study.loop.brief.View`."""
        if not isinstance(event, Ended | Answered):
            return
        for name in file_names(event.trial_id):
            self._checkpoints.discard(name)
