"""The study log, open for writing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType

from study.events import Event
from study.log.head import Heads
from study.log.lines import to_line
from study.log.reading import Loaded, load
from study.log.writers import FileWriter, PartsWriter, Writer
from study.store import lease
from study.store.names import refuse_links
from study.store.patience import Patience
from study.store.storage import Storage, StorageError, reason

SYNC_SECONDS = 1.0


class EventLog:
    """The log, open for writing by this process alone.

    ``events`` are those that were there, ``remarks`` say what was repaired. What the storage
    refuses is tried again for as long as its patience lasts; meanwhile nothing is taken. After that
    the log takes no more: ``error`` says why.
    """

    def __init__(self, storage: Storage) -> None:
        """Take the lease and open the log.

        Raises:
            LeaseHeld: another process writes it.
            CorruptLog: it is damaged, or shorter than it was.
            StorageError: it cannot be read.
            UnsafeName: there are links in the folder.
        """
        self._patience, storage = storage.patience, storage.patient(Patience())
        if storage.is_local:
            refuse_links(storage.root)
        self._lease = lease.take(storage)
        try:
            found = load(storage)
            self.events, self.remarks = found.events, _repair(storage, found)
            self._heads = Heads(storage, found.head)
            with _refusing():
                self._writer = self._open(storage, found)
                self._fence()
        except BaseException:
            self._lease.release()
            raise
        self.error: StorageError | None = None
        self._refused: StorageError | None = None
        self._saving = threading.Lock()
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._sync, name="paretune-log", daemon=True)
        self._thread.start()

    def _open(self, storage: Storage, found: Loaded) -> Writer:
        if storage.is_local:
            return FileWriter(storage, found)
        return PartsWriter(storage, found, self._heads.session)

    def _fence(self) -> None:
        """Seal what is there in both heads: what a process that lost the study adds is left out."""
        if self.events:
            saved = self._writer.sync()
            for _ in range(2):
                self._heads.write(saved, always=True)

    def append(self, event: Event) -> None:
        """Add an event; safe from any thread.

        Raises:
            StorageError: this or an earlier event could not be written. The log stays valid.
            LeaseLost: another process took the study over.
        """
        if self._closing.is_set():
            raise StorageError("the study log is closed")
        line = to_line(event)
        self._insist(lambda: self._write(line))
        self._dirty.set()

    def flush(self) -> None:
        """Return when all events so far are stored.

        Raises:
            StorageError: as :meth:`append`.
        """
        self._insist(self._save)

    def close(self) -> None:
        """Write everything down and give the lease back. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        try:
            self.flush()
        finally:
            self._writer.close()
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

    def _insist(self, action: Callable[[], None]) -> None:
        if self.error:
            raise self.error
        try:
            self._patience.call(action)
        except StorageError as error:
            self.error = error
            raise

    def _write(self, line: bytes) -> None:
        if refusal := self.error or self._refused:
            raise refusal
        with _refusing():
            self._lease.check()
            self._writer.write(line)

    def _save(self) -> None:
        with self._saving:
            try:
                with _refusing():
                    self._lease.check()
                    self._heads.write(self._writer.sync())
            except StorageError as error:
                self._refused = error
                raise
            self._refused = None

    def _sync(self) -> None:
        """In a thread of its own, because forcing bytes to a disk takes milliseconds."""
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(SYNC_SECONDS)
            self._dirty.clear()
            try:
                self._insist(self._save)
            except StorageError:
                return  # whoever appends next hears of it


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write the study log: {reason(error)}") from error


def _repair(storage: Storage, found: Loaded) -> list[str]:
    """Cut what is torn at the log's end, and keep it aside."""
    remarks = [f"{storage}/{name} is damaged and written anew" for name in found.damaged]
    if found.tail and found.last:
        aside = f"log.torn-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        storage.write_bytes(aside, found.tail)
        storage.write_bytes(found.last, found.good)
        what = f"{len(found.tail):,} bytes behind the last whole event"
        remarks.append(f"the study log was cut by {what}; they are kept in {storage}/{aside}")
    return remarks
