"""One process at a time works on a study: a second is refused, a dead one replaced."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from log_helpers import every_kind
from object_store import Store

from study import log
from study.log import EventLog, event_log
from study.store import lease
from study.store.lease import LeaseHeld, LeaseLost
from study.store.storage import Storage, StorageError

EVENTS = every_kind()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.02)


@pytest.fixture(params=["local", "parts"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage.open(tmp_path / "study")
    return Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_second_writer_is_refused(storage):
    with EventLog(storage) as first:
        with pytest.raises(LeaseHeld, match=rf"process {os.getpid()} on .* since .*UTC"):
            EventLog(storage)
        first.append(EVENTS[0])
    with EventLog(storage) as second:
        assert second.events == EVENTS[:1]


OWNER = """
import sys, time
from study.store import lease
lease.SETTLE_SECONDS = 0.01
from study.store.storage import Storage
from pyarrow import fs
storage = Storage.open(sys.argv[1])
held = lease._Heartbeat(storage) if sys.argv[2] == "heartbeat" else lease.take(storage)
print("mine", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["kernel", "heartbeat"])
def test_a_killed_owner_loses_the_lease_at_once(tmp_path, kind):
    storage = Storage.open(tmp_path)
    take = lease.take if kind == "kernel" else lease._Heartbeat
    command = [sys.executable, "-c", OWNER, str(tmp_path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(LeaseHeld, match=f"process {owner.pid} "):
            take(storage)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    take(storage).release()


def test_a_forked_child_does_not_keep_the_lease(tmp_path):
    storage = Storage.open(tmp_path)
    held = lease.take(storage)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        held.close()  # as the kernel does for a killed owner
        wait_for(lambda: _free(storage))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _free(storage):
    try:
        lease.take(storage).release()
    except LeaseHeld:
        return False
    return True


class Clock:
    """The clock of one of two hosts: it stands for all that is read there."""

    def __init__(self, monkeypatch):
        self.now = self.began = lease._clock()
        monkeypatch.setattr(lease, "_clock", lambda: self.now)
        monkeypatch.setattr(lease.time, "sleep", self.sleep)
        self.then = lambda: None

    def sleep(self, seconds):
        self.now += seconds
        self.then()


def owned_elsewhere(storage, monkeypatch):
    """A lease as another host's process took it, which beats no more by itself."""
    with monkeypatch.context() as there:
        there.setattr(lease.socket, "gethostname", lambda: "elsewhere")
        there.setattr(lease, "BEAT_SECONDS", 1e6)
        return lease.take(storage)


def test_a_lease_of_another_host_is_watched_until_it_expires(monkeypatch):
    storage = Store().storage()
    first = owned_elsewhere(storage, monkeypatch)
    clock = Clock(monkeypatch)
    second = lease.take(storage)
    assert lease.EXPIRES_SECONDS <= clock.now - clock.began < 2 * lease.EXPIRES_SECONDS
    second.check()
    with pytest.raises(LeaseLost, match="taken over by process"):
        first._look(), first.check()
    second.release()


@pytest.mark.parametrize("jump", [-86400.0, 0.0, 86400.0])
def test_a_living_owner_keeps_it_whatever_the_time_is_said_to_be(monkeypatch, jump):
    storage = Store().storage()
    first = owned_elsewhere(storage, monkeypatch)
    clock = Clock(monkeypatch)
    told = time.time() + jump
    monkeypatch.setattr(lease.time, "time", lambda: told)
    beats = [clock.now + lease.EXPIRES_SECONDS * 0.9]

    def beat():
        if beats and clock.now > beats[0]:
            beats.pop()
            first._beat()

    clock.then = beat
    with pytest.raises(LeaseHeld, match="on elsewhere"):
        lease.take(storage)
    first.check()


def test_an_owner_that_slept_looks_before_it_writes(monkeypatch):
    """No thread has run since it woke: the check alone must find out."""
    storage = Store().storage()
    first = owned_elsewhere(storage, monkeypatch)
    clock = Clock(monkeypatch)
    second = lease.take(storage)
    clock.now += 3600.0
    with pytest.raises(LeaseLost):
        first.check()
    second.check()


def test_an_owner_that_slept_undisturbed_goes_on(monkeypatch):
    storage = Store().storage()
    only = owned_elsewhere(storage, monkeypatch)
    before = storage.read_bytes(lease.NAME)
    clock = Clock(monkeypatch)
    clock.now += 3600.0
    only.check()
    assert storage.read_bytes(lease.NAME) != before


def test_an_outage_of_the_store_loses_no_lease(monkeypatch):
    store = Store()
    only = owned_elsewhere(store.storage(), monkeypatch)
    clock = Clock(monkeypatch)
    clock.now += 3600.0

    def down(path):
        raise OSError("503 slow down")

    store.refuse = down
    with pytest.raises(StorageError, match="503") as refused:
        only.check()
    assert refused.value.passing
    store.refuse = lambda path: None
    only.check()


def test_an_owner_whose_lease_was_taken_writes_no_more(monkeypatch):
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    writer = EventLog(storage)
    storage.write_text("lease.json", '{"token": "another"}')
    wait_for(lambda: writer._lease._lost)
    with pytest.raises(LeaseLost, match="taken over"):
        writer.append(EVENTS[0])
    with pytest.raises(LeaseLost):
        writer.close()
    assert log.read(storage) == []


def test_a_lock_whose_file_was_deleted_is_lost(tmp_path):
    """Another process would lock another file."""
    storage = Storage.open(tmp_path)
    first = lease.take(storage)
    (tmp_path / lease.NAME).unlink()
    second = lease.take(storage)
    with pytest.raises(LeaseLost, match="deleted or replaced"):
        first.check()
    second.check()
    second.release()
    first.release()


def test_a_stopped_owner_keeps_its_lock(tmp_path):
    storage = Storage.open(tmp_path)
    command = [sys.executable, "-c", OWNER, str(tmp_path), "kernel"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "mine\n"
        os.kill(owner.pid, signal.SIGSTOP)
        with pytest.raises(LeaseHeld):
            lease.take(storage)
        os.kill(owner.pid, signal.SIGKILL)
        os.kill(owner.pid, signal.SIGCONT)
        owner.wait()
    lease.take(storage).release()


@pytest.mark.parametrize("call", ["open", "ftruncate", "pwrite"])
def test_a_lease_that_cannot_be_written_says_so(call, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, os.strerror(13))

    storage = Storage.open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match=r"^cannot take .*/lease\.json: Permission denied$"):
            lease.take(storage)
    lease.take(storage).release()  # nothing holds it
