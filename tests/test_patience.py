"""A storage that refuses: what is tried again, what is said, and when it is given up."""

import errno
import os
import pickle
import threading
import time

import pytest
from log_helpers import every_kind
from object_store import Store

from study import log
from study.log import EventLog, event_log
from study.store import lease, patience
from study.store.lease import LeaseLost
from study.store.patience import GaveUp, Patience
from study.store.storage import Storage, StorageError

EVENTS = every_kind()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.02)


def refusing(times, error=None):
    """Raises so many times, then returns how often it was called."""
    calls = []

    def action():
        calls.append(1)
        if len(calls) <= times:
            raise error or StorageError("cannot write it: No space left on device")
        return len(calls)

    return action


def test_what_works_is_not_spoken_of():
    said = []
    assert Patience(60.0, said.append).call(refusing(0)) == 1
    assert said == []


def test_what_is_refused_is_tried_again_and_said_at_once():
    said = []
    assert Patience(60.0, said.append).call(refusing(3)) == 4
    assert said[0] == (
        "cannot write it: No space left on device; trying again for 60 s, Ctrl-C ends the study"
    )
    assert said[1].startswith("the storage takes files again, after 0.")
    assert len(said) == 2


def test_patience_ends():
    began = time.monotonic()
    with pytest.raises(GaveUp, match="No space left.*the study is paused, --resume goes on"):
        Patience(0.2, [].append).call(refusing(10**6))
    assert 0.2 <= time.monotonic() - began < 2.0


def test_without_patience_the_error_is_the_first():
    with pytest.raises(StorageError, match="^cannot write it: No space left on device$"):
        Patience().call(refusing(1))


def test_a_study_that_another_process_has_is_not_waited_for():
    with pytest.raises(LeaseLost):
        Patience(60.0, [].append).call(refusing(1, LeaseLost("gone")))


def test_a_user_who_waits_no_longer_is_heard():
    waiting = Patience(60.0, [].append)
    waiting.stopped = lambda: True
    began = time.monotonic()
    with pytest.raises(GaveUp):
        waiting.call(refusing(10**6))
    assert time.monotonic() - began < 5.0


def test_threads_say_one_outage_once():
    said = []
    shared = Patience(60.0, said.append)
    healthy = threading.Event()

    def action():
        if not healthy.is_set():
            raise StorageError("503")

    threads = [threading.Thread(target=shared.call, args=[action]) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    healthy.set()
    for thread in threads:
        thread.join()
    assert sum("trying again" in text for text in said) == 1
    assert sum("takes files again" in text for text in said) == 1


def test_a_storage_takes_its_patience_along():
    storage = Storage.open("fsspec+memory://some/place").patient(Patience(7.0, [].append))
    assert storage.sub("artifacts").patience is storage.patience
    assert pickle.loads(pickle.dumps(storage.patience)).seconds == 7.0  # as workers get it


@pytest.mark.parametrize("verb", ["write", "delete"])
def test_a_storage_is_patient(verb):
    store = Store({"bucket/study/a": b"old"})
    storage = store.storage().patient(Patience(60.0, [].append))
    left = [1, 2, 3]

    def refuse(path):
        if left:
            left.pop()
            raise OSError("503 slow down")

    store.refuse = refuse
    if verb == "write":
        storage.write_bytes("a", b"new")
        assert storage.read_bytes("a") == b"new"
    else:
        storage.delete("a")
        assert not storage.exists("a")
    assert not left


class Disk:
    """This machine's disk; when full it takes half of a write, and then refuses with ``reason``."""

    def __init__(self, monkeypatch, reason=errno.ENOSPC):
        self.full, self.reason, self._taken = False, reason, False
        self._pwrite, self._fsync = os.pwrite, os.fsync
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def pwrite(self, file, data, offset):
        self._taken = self.full and not self._taken
        if self.full and not self._taken:
            raise OSError(self.reason, os.strerror(self.reason))
        return self._pwrite(file, data[: len(data) // 2] if self.full else data, offset)

    def fsync(self, file):
        if self.full:
            raise OSError(self.reason, os.strerror(self.reason))
        self._fsync(file)


REFUSALS = {
    "full": (errno.ENOSPC, "No space left on device"),
    "over quota": (errno.EDQUOT, "Disk quota exceeded"),
    "broken": (errno.EIO, "Input/output error"),
}
refusals = pytest.mark.parametrize(("reason", "words"), REFUSALS.values(), ids=REFUSALS)


@refusals
def test_a_disk_that_refuses_holds_the_log_up_and_nothing_is_lost(
    tmp_path, monkeypatch, reason, words
):
    disk, said = Disk(monkeypatch, reason), []
    storage = Storage.open(tmp_path).patient(Patience(60.0, said.append))
    with EventLog(storage) as writer:
        writer.append(EVENTS[0])
        disk.full = True
        thread = threading.Thread(target=lambda: [writer.append(e) for e in EVENTS[1:]])
        thread.start()
        time.sleep(0.2)
        assert log.read(storage) == EVENTS[:1]
        assert thread.is_alive()
        assert f"cannot write the study log: {words}; trying again" in said[0]
        disk.full = False
        thread.join()
    assert log.read(storage) == EVENTS


@refusals
def test_a_disk_that_goes_on_refusing_ends_the_log_and_leaves_it_valid(
    tmp_path, monkeypatch, reason, words
):
    disk = Disk(monkeypatch, reason)
    storage = Storage.open(tmp_path).patient(Patience(0.1, [].append))
    writer = EventLog(storage)
    writer.append(EVENTS[0])
    writer.flush()
    disk.full = True
    for _ in range(2):
        with pytest.raises(GaveUp, match=f"{words}.*--resume goes on"):
            writer.append(EVENTS[1])
    with pytest.raises(GaveUp):
        writer.close()
    disk.full = False
    assert log.read(storage) == EVENTS[:1]
    with EventLog(storage) as again:
        assert again.events == EVENTS[:1]


def test_what_the_kernel_lost_is_written_again(tmp_path, monkeypatch):
    """After an fsync that failed, pages that were never stored count as clean."""
    storage = Storage.open(tmp_path).patient(Patience(60.0, [].append))
    fsync, lost = os.fsync, []

    def lose(file):
        if not lost and os.fstat(file).st_size > first:
            os.ftruncate(file, first)
            os.pwrite(file, b"\0" * 10, first)
            lost.append(file)
            raise OSError(5, os.strerror(5))
        fsync(file)

    with EventLog(storage) as writer:
        writer.append(EVENTS[0])
        writer.flush()
        first = storage.size(log.FILE)
        monkeypatch.setattr(os, "fsync", lose)
        for event in EVENTS[1:]:
            writer.append(event)
    assert lost
    assert log.read(storage) == EVENTS


def test_a_store_that_fails_holds_the_log_up(monkeypatch):
    store, said = Store(), []
    storage = store.storage().patient(Patience(60.0, said.append))
    with EventLog(storage) as writer:
        writer.append(EVENTS[0])
        writer.flush()
        down = threading.Event()
        down.set()

        def refuse(path):
            if down.is_set():
                raise OSError("AWS Error SLOW_DOWN during PutObject (503)")

        store.refuse = refuse
        writer.append(EVENTS[1])  # taken, and then it turns out
        while not said:
            time.sleep(0.01)
        thread = threading.Thread(target=lambda: [writer.append(e) for e in EVENTS[2:]])
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        assert log.read(storage) == EVENTS[:1]
        assert "SLOW_DOWN" in said[0]
        down.clear()
        thread.join()
    assert log.read(storage) == EVENTS
