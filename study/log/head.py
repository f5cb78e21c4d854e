"""How far a log was known to be stored: two small files beside it, written in turn.

A log that was emptied, cut at the end of a line, or put back from an older copy looks whole. The
head tells: it is written after every batch of events that reached the disk, and says how many there
were, in which files, how many bytes of each and their checksum. The log may hold more than that,
never less. Of a file that nobody writes any longer the head gives the final length: what is behind
it came from a process that had lost the study to another one, and does not count.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from study.log.lines import frame, unframe
from study.store.storage import Storage
from trainables.serial import RecordError, canonical, from_json, parse_json

NAMES = ("log.head-0", "log.head-1")


@dataclass(frozen=True)
class Extent:
    """The first ``length`` bytes of a file, and their checksum."""

    length: int = 0
    crc: int = 0

    def plus(self, data: bytes) -> Extent:
        """With ``data`` behind it."""
        return Extent(self.length + len(data), zlib.crc32(data, self.crc))

    def begins(self, data: bytes) -> bool:
        """Whether ``data`` begins with it."""
        return len(data) >= self.length and zlib.crc32(data[: self.length]) == self.crc


@dataclass(frozen=True)
class Saved:
    """What is stored of a log: its files in their order, the ``open`` one being written."""

    events: int = 0
    files: Mapping[str, Extent] = field(default_factory=dict)
    open: str | None = None


@dataclass(frozen=True)
class Head:
    """What was saved by the latest of all sessions, at its latest turn."""

    session: int = 0
    turn: int = 0
    saved: Saved = Saved()

    def limit(self, name: str) -> int | None:
        """Bytes of a file that count, if nobody writes it any longer."""
        sealed = name in self.saved.files and name != self.saved.open
        return self.saved.files[name].length if sealed else None


def read(storage: Storage) -> tuple[Head, list[str]]:
    """The newest head that is whole, and the names of those that are damaged."""
    found, damaged = [Head()], list[str]()
    for name in NAMES:
        if storage.exists(name):
            head = _parse(storage.read_bytes(name))
            found += [head] if head else []
            damaged += [] if head else [name]
    return max(found, key=lambda head: (head.session, head.turn)), damaged


def exists(storage: Storage) -> bool:
    """Whether a log was ever saved here."""
    return any(map(storage.exists, NAMES))


class Heads:
    """Writes the heads of a new session, the older of the two each time."""

    def __init__(self, storage: Storage, before: Head) -> None:
        self._storage = storage
        self._head = Head(before.session + 1, before.turn, before.saved)
        self.session = self._head.session

    def write(self, saved: Saved, always: bool = False) -> None:
        """Say that so much is stored, unless the newest head does.

        Raises:
            StorageError: it cannot be written; what was said before is still there.
        """
        if saved == self._head.saved and not always:
            return
        head = replace(self._head, turn=self._head.turn + 1, saved=saved)
        self._storage.write_bytes(NAMES[head.turn % 2], frame(canonical(head).encode()))
        self._head = head


def _parse(data: bytes) -> Head | None:
    text = unframe(data.removesuffix(b"\n"))
    if text is None:
        return None
    try:
        return from_json(Head, parse_json(text))
    except RecordError:
        return None
