"""The study log: an append-only list of events, the one source of truth of a study.

One event a line: ``LENGTH CRC32 JSON``, length in bytes and checksum of the JSON. A line that a
crash tore off at the end is cut away by the next writer; damage before the end is refused.

On this machine's disks the log is one file, ``log.jsonl``: an event that was appended survives the
death of the process, and within a second that of the machine. On a filesystem that cannot append it
is a row of files, ``log/000000.jsonl`` and so on, written once a second.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from study import lease
from study.errors import StudyError
from study.events import Event, decode, encode
from study.storage import Storage, StorageError

FILE = "log.jsonl"
FOLDER = "log"
SYNC_SECONDS = 1.0
PART_BYTES = 256 * 1024
_PART = re.compile(r"(\d{6})\.jsonl")
_ADVICE = "restore the file from a copy, or start a study under another --name"


class CorruptLog(StudyError, ValueError):
    """The log is damaged before its end; the message names file, line and byte offset."""


def to_line(event: Event) -> bytes:
    """The line of an event."""
    text = encode(event).encode()
    return b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)


def parse(data: bytes, name: str = FILE) -> tuple[list[Event], int]:
    """The events in ``data`` and the length of its good part; what follows is a torn tail.

    Raises:
        CorruptLog: a good line follows a bad one, or a line's JSON is no event.
    """
    events: list[Event] = []
    offset = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        text = _body(line) if number < len(lines) else None
        where = f"{name}: line {number} (byte {offset})"
        if text is None:
            if any(_body(later) is not None for later in lines[number:]):
                raise CorruptLog(f"{where} is damaged, though good lines follow; {_ADVICE}")
            break
        try:
            events.append(decode(text))
        except ValueError as error:
            raise CorruptLog(f"{where}: {error}") from error
        offset += len(line) + 1
    return events, offset


def _body(line: bytes) -> bytes | None:
    """The JSON of a line that is whole, or None."""
    length, _, rest = line.partition(b" ")
    checksum, _, text = rest.partition(b" ")
    whole = length == b"%d" % len(text) and checksum == b"%08x" % zlib.crc32(text)
    return text if whole else None


def read(storage: Storage) -> list[Event]:
    """All events so far, also while another process writes. Empty if there is no log."""
    return _load(storage).events


def exists(storage: Storage) -> bool:
    """Whether a log stands in the folder."""
    return bool(files(storage))


def files(storage: Storage) -> list[str]:
    """The log's files in their order: a log may be moved from one kind of filesystem to another."""
    parts = [f"{FOLDER}/{name}" for name in storage.list(FOLDER) if _PART.fullmatch(name)]
    return [FILE, *parts] if storage.exists(FILE) else parts


@dataclass(frozen=True)
class _Loaded:
    events: list[Event]
    last: str | None
    good: bytes
    cut_bytes: int


def _load(storage: Storage) -> _Loaded:
    names = files(storage)
    events: list[Event] = []
    good, cut = b"", 0
    for name in names:
        if cut:
            raise CorruptLog(f"{storage}/{name} follows a file that is cut short; {_ADVICE}")
        data = storage.read_bytes(name)
        found, length = parse(data, f"{storage}/{name}")
        events += found
        good, cut = data[:length], len(data) - length
    return _Loaded(events, names[-1] if names else None, good, cut)


class EventLog:
    """The log, open for writing by this process alone.

    ``events`` are those that were there, ``cut_bytes`` the length of a torn tail that was cut.
    """

    def __init__(self, storage: Storage) -> None:
        """Take the lease and open the log.

        Raises:
            LeaseHeld: another process writes it.
            CorruptLog: it is damaged.
        """
        self._lease = lease.take(storage)
        try:
            found = _load(storage)
            if found.cut_bytes and found.last:
                storage.write_bytes(found.last, found.good)
            self._writer: _Writer = (_File if storage.is_local else _Parts)(storage, found.last)
        except BaseException:
            self._lease.release()
            raise
        self.events, self.cut_bytes = found.events, found.cut_bytes
        self._error: OSError | None = None
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._sync, name="paretune-log", daemon=True)
        self._thread.start()

    def append(self, event: Event) -> None:
        """Add an event; safe from any thread.

        Raises:
            StorageError: this or an earlier event could not be written. The log stays valid.
            LeaseLost: another process took the study over.
        """
        if self._closing.is_set():
            raise StorageError("the study log is closed")
        self._check()
        try:
            self._writer.write(to_line(event))
        except OSError as error:
            raise StorageError(f"cannot write the study log: {error}") from error
        self._dirty.set()

    def close(self) -> None:
        """Write everything down and give the lease back. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        try:
            self._check()
            self._writer.close()
        finally:
            self._lease.release()

    def __enter__(self) -> EventLog:
        """The log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _check(self) -> None:
        if self._error:
            raise StorageError(f"cannot write the study log: {self._error}") from self._error
        self._lease.check()

    def _sync(self) -> None:
        """In a thread of its own, because forcing bytes to a disk takes milliseconds."""
        failing_since: float | None = None
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(SYNC_SECONDS)
            self._dirty.clear()
            try:
                self._lease.check()
                self._writer.sync()
                failing_since = None
            except OSError as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= self._writer.patience:
                    self._error = error
                    return
                self._dirty.set()


class _Writer(Protocol):
    patience: float  # seconds of failing syncs until the log gives up

    def write(self, line: bytes) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class _File:
    """Appends to the last file of a local log."""

    patience = 0.0  # what the kernel failed to write once is gone, it won't try again

    def __init__(self, storage: Storage, last: str | None) -> None:
        storage.make()
        path = storage.path(last or FILE)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._length = os.fstat(self._file).st_size
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        with self._lock:
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, self._length)  # later lines must not follow half a one
                raise
            self._length += len(line)

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        self.sync()
        os.close(self._file)


class _Parts:
    """Rewrites the newest part whole, until it is long enough to begin the next."""

    patience = 60.0

    def __init__(self, storage: Storage, last: str | None) -> None:
        self._storage = storage
        self._number = int(match[1]) + 1 if last and (match := _PART.search(last)) else 0
        self._part, self._written = b"", 0
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        with self._lock:
            self._part += line

    def sync(self) -> None:
        part = self._part
        if len(part) == self._written:
            return
        self._storage.write_bytes(f"{FOLDER}/{self._number:06d}.jsonl", part)
        self._written = len(part)
        if len(part) >= PART_BYTES:
            with self._lock:
                self._part = self._part[len(part) :]
            self._number, self._written = self._number + 1, 0

    def close(self) -> None:
        self.sync()
