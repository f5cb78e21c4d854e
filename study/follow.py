"""Read a study log as it grows, in the process that writes it or in another."""

from __future__ import annotations

from study import log
from study.events import Event
from study.store.storage import Storage


class Follower:
    """Gives each event of a log once, in order."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._file: str | None = None
        self._offset = 0

    def poll(self) -> list[Event]:
        """The events since the last call.

        Raises:
            CorruptLog: the log is damaged.
            StorageError: it cannot be read now.
        """
        events: list[Event] = []
        # Listed before they are read: a file that another one follows has its final length.
        for name, limit in self._new_files().items():
            if name != self._file:
                self._file, self._offset = name, 0
            data = self._storage.read_bytes(name, self._offset)
            left = None if limit is None else max(0, limit - self._offset)
            where = f"{self._storage}/{name} from byte {self._offset}"
            found, length = log.parse(data[:left], where)
            events += found
            self._offset += length
        return events

    def _new_files(self) -> dict[str, int | None]:
        spans = log.spans(self._storage)
        names = list(spans)
        first = names.index(self._file) if self._file in spans else 0
        return {name: spans[name] for name in names[first:]}
