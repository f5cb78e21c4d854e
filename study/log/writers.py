"""How lines get to a filesystem: at the end of one file, or in a row of files."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import Protocol

from study.log.head import Extent, Saved
from study.log.reading import FILE, Loaded, part, part_number
from study.store.storage import Storage

PART_BYTES = 256 * 1024


class Writer(Protocol):
    """Takes lines; each method may be called again after it raised."""

    def write(self, line: bytes) -> None:
        """Take a line. On this machine's disks it then survives the death of the process."""

    def sync(self) -> Saved:
        """Store the lines so far; what is stored now."""

    def close(self) -> None:
        """Let go of the files."""


class FileWriter:
    """Writes at the end of the last file of a local log."""

    def __init__(self, storage: Storage, found: Loaded) -> None:
        storage.make()
        self._name = found.last or FILE
        self._path = storage.path(self._name)
        self._sealed = {k: extent for k, extent in found.extents.items() if k != self._name}
        self._end = found.extents.get(self._name, Extent())
        self._events = len(found.events)
        self._saved = self._end  # as far as it is known to be on the disk
        self._unsaved: list[bytes] = []
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._lock, self._failed = threading.Lock(), False

    def write(self, line: bytes) -> None:
        """See :class:`Writer`."""
        with self._lock:
            try:
                self._put(line, self._end.length)
            except OSError:
                with suppress(OSError):  # else half a line stays: a tail, as a crash leaves it
                    os.ftruncate(self._file, self._end.length)
                raise
            self._end, self._events = self._end.plus(line), self._events + 1
            self._unsaved.append(line)

    def _put(self, data: bytes, offset: int) -> None:
        """At a place, not at the end: what was refused is written again to where it belongs.

        A disk or a quota that is nearly full takes a part first and says why with the rest.
        """
        left = memoryview(data)
        while left:
            taken = os.pwrite(self._file, left, offset)
            if not taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left, offset = left[taken:], offset + taken

    def sync(self) -> Saved:
        """See :class:`Writer`."""
        with self._lock:
            if self._failed:  # what the kernel failed to store once is lost to it: it tells no more
                self._put(b"".join(self._unsaved), self._saved.length)
            end, events, count = self._end, self._events, len(self._unsaved)
        self._failed = True
        self._look()
        os.fsync(self._file)
        with self._lock:
            self._saved, self._failed = end, False
            del self._unsaved[:count]
        return Saved(events, {**self._sealed, self._name: end}, self._name)

    def _look(self) -> None:
        """What is written to a file that was deleted is gone with the process."""
        here = os.path.exists(self._path)
        if not (here and os.path.samestat(os.stat(self._path), os.fstat(self._file))):
            raise OSError(f"{self._path} was deleted or replaced; put it back")

    def close(self) -> None:
        """See :class:`Writer`."""
        os.close(self._file)


class PartsWriter:
    """Writes the newest part whole, again and again, until it is long enough to begin the next.

    Parts that are followed by another are never written again.
    """

    def __init__(self, storage: Storage, found: Loaded, session: int) -> None:
        last = part_number(found.last)
        self._storage, self._session = storage, session
        self._number = 0 if last is None else last + 1
        self._events, self._lines = len(found.events), list[bytes]()
        self._saved = Saved(self._events, found.extents)
        self._stored = 0  # lines of the newest part that are stored
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """See :class:`Writer`."""
        with self._lock:
            self._lines.append(line)
            self._events += 1

    def sync(self) -> Saved:
        """See :class:`Writer`."""
        with self._lock:
            lines, events = list(self._lines), self._events
        if len(lines) > self._stored:
            name, data = part(self._number, self._session), b"".join(lines)
            self._storage.write_bytes(name, data)
            files = {**self._saved.files, name: Extent().plus(data)}
            self._saved, self._stored = Saved(events, files, name), len(lines)
            if len(data) >= PART_BYTES:
                self._begin_next(len(lines))
        return self._saved

    def _begin_next(self, count: int) -> None:
        with self._lock:
            del self._lines[:count]
        self._number, self._stored = self._number + 1, 0

    def close(self) -> None:
        """There is nothing to let go of."""
