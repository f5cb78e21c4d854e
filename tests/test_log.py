"""The study log loses nothing that was appended, and is written by one process at a time."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_helpers import curve, every_kind, opened, whole

from study import lease, log
from study.log import event_log, writers
from study.follow import Follower
from study.lease import LeaseHeld, LeaseLost
from study.log import CorruptLog, EventLog
from study.storage import Storage, StorageError

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


def write(storage, events):
    with EventLog(storage) as opened_log:
        for event in events:
            opened_log.append(event)


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_is_appended_is_read(storage):
    assert not log.exists(storage)
    assert log.read(storage) == []
    write(storage, EVENTS[:3])
    write(storage, EVENTS[3:])
    assert log.exists(storage)
    assert log.read(storage) == EVENTS
    with EventLog(storage) as again:
        assert again.events == EVENTS
        assert again.cut_bytes == 0


def test_a_reader_sees_events_while_the_log_is_open(storage):
    with EventLog(storage) as writer:
        follower = Follower(storage)
        writer.append(EVENTS[0])
        wait_for(lambda: log.read(storage) == EVENTS[:1])
        assert follower.poll() == EVENTS[:1]
        assert follower.poll() == []
        for event in EVENTS[1:]:
            writer.append(event)
        wait_for(lambda: log.read(storage) == EVENTS)
        assert follower.poll() == EVENTS[1:]


def test_a_long_log_in_parts(monkeypatch):
    monkeypatch.setattr(writers, "PART_BYTES", 2000)
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    follower, followed = Follower(storage), []
    events = [opened(), *(event for n in range(10) for event in whole(n))]
    with EventLog(storage) as writer:
        for event in events:
            writer.append(event)
            time.sleep(0.003)
            followed += follower.poll()
    assert len(storage.list("log")) > 2
    assert followed + follower.poll() == log.read(storage) == events


def test_events_of_many_threads_stay_whole(storage):
    with EventLog(storage) as writer:
        threads = [
            threading.Thread(target=lambda: [writer.append(e) for e in curve(0)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(log.read(storage)) == 8 * len(curve(0))


def test_torn_tail_at_every_byte(tmp_path):
    storage = Storage.open(tmp_path)
    lines = [log.to_line(event) for event in EVENTS]
    data = b"".join(lines)
    first = len(data) - len(lines[-1]) - len(lines[-2])
    for length in range(first, len(data)):
        (tmp_path / "log.jsonl").write_bytes(data[:length])
        kept = EVENTS[:-2] if length < first + len(lines[-2]) else EVENTS[:-1]
        assert log.read(storage) == kept
        with EventLog(storage) as again:
            assert again.events == kept
            assert again.cut_bytes == length - len(b"".join(lines[: len(kept)]))
            again.append(EVENTS[-1])
        assert log.read(storage) == [*kept, EVENTS[-1]]


def test_torn_last_part():
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    write(storage, EVENTS)
    storage.write_bytes("log/000000.jsonl", storage.read_bytes("log/000000.jsonl")[:-5])
    write(storage, EVENTS[-1:])
    assert log.read(storage) == EVENTS
    storage.write_bytes("log/000000.jsonl", storage.read_bytes("log/000000.jsonl")[:-5])
    with pytest.raises(CorruptLog, match=r"000001\.jsonl follows"):
        log.read(storage)


@pytest.mark.parametrize("junk", [b"\0" * 500, b"12 00000000 {}\n", b"\r\n\n", b"7 "])
def test_junk_at_the_end_is_a_torn_tail(tmp_path, junk):
    storage = Storage.open(tmp_path)
    write(storage, EVENTS)
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(junk)
    write(storage, EVENTS[-1:])
    assert log.read(storage) == [*EVENTS, EVENTS[-1]]


@given(data=st.data())
def test_a_flipped_byte_before_the_end_is_found(data):
    lines = [log.to_line(event) for event in EVENTS]
    number = data.draw(st.integers(0, len(lines) - 2))
    place = data.draw(st.integers(0, len(lines[number]) - 1))
    bad = bytearray(lines[number])
    bad[place] ^= data.draw(st.integers(1, 255))
    whole_log = b"".join([*lines[:number], bytes(bad), *lines[number + 1 :]])
    # A lost line end also damages the line behind it, which may be the last.
    if number == len(lines) - 2 and place == len(lines[number]) - 1:
        assert log.parse(whole_log)[0] == EVENTS[:number]
        return
    offset = len(b"".join(lines[:number]))
    with pytest.raises(CorruptLog, match=rf"line {number + 1} \(byte {offset}\)"):
        log.parse(whole_log)


def test_an_event_of_a_later_version_is_refused():
    import zlib

    text = b'{"kind":"teleported"}'
    line = b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)
    with pytest.raises(CorruptLog, match="line 1 .*unknown kind 'teleported'.*upgrade"):
        log.parse(line)


def test_a_damaged_log_is_not_touched_and_not_leased(tmp_path):
    storage = Storage.open(tmp_path)
    write(storage, EVENTS)
    data = bytearray((tmp_path / "log.jsonl").read_bytes())
    data[20] ^= 1
    (tmp_path / "log.jsonl").write_bytes(data)
    for _ in range(2):
        with pytest.raises(CorruptLog):
            EventLog(storage)
    assert (tmp_path / "log.jsonl").read_bytes() == data


def test_a_log_moves_between_filesystems(tmp_path):
    memory = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    write(memory, EVENTS[:2])
    local = Storage.open(tmp_path)
    local.write_bytes("log/000000.jsonl", memory.read_bytes("log/000000.jsonl"))
    write(local, EVENTS[2:4])
    assert local.list() == ["lease.json", "log"]
    memory.write_bytes("log/000000.jsonl", local.read_bytes("log/000000.jsonl"))
    write(memory, EVENTS[4:])
    assert log.read(memory) == EVENTS


def test_disk_full_leaves_a_valid_log(tmp_path, monkeypatch):
    storage = Storage.open(tmp_path)
    write_whole = os.write
    with EventLog(storage) as writer:
        writer.append(EVENTS[0])
        monkeypatch.setattr(os, "write", lambda file, data: write_whole(file, data[:10]))
        with pytest.raises(StorageError, match="No space left"):
            writer.append(EVENTS[1])
        monkeypatch.undo()
        writer.append(EVENTS[1])
    assert log.read(storage) == EVENTS[:2]


def test_a_store_that_fails_for_good_is_told(monkeypatch):
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    monkeypatch.setattr(log._Parts, "patience", 0.05)
    writer = EventLog(storage)

    def fail(*_):
        raise StorageError("cannot write: 503 slow down")

    monkeypatch.setattr(log._Parts, "sync", fail)
    writer.append(EVENTS[0])
    wait_for(lambda: writer._error)
    with pytest.raises(StorageError, match="503 slow down"):
        writer.append(EVENTS[1])
    with pytest.raises(StorageError, match="503 slow down"):
        writer.close()
    assert not storage.exists("lease.json")


def test_closed_is_closed(storage):
    writer = EventLog(storage)
    writer.close()
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.append(EVENTS[0])


def test_the_second_writer_is_refused(storage):
    with EventLog(storage) as first:
        with pytest.raises(LeaseHeld, match=rf"process {os.getpid()} on .* since .*UTC"):
            EventLog(storage)
        first.append(EVENTS[0])
    write(storage, EVENTS[1:])
    assert log.read(storage) == EVENTS


OWNER = """
import sys, time
from study import lease
lease.SETTLE_SECONDS = 0.01
from study.storage import Storage
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


def test_a_lease_of_another_host_expires(monkeypatch):
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 100.0)
    first = lease.take(storage)
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "here")
    with pytest.raises(LeaseHeld, match="on elsewhere"):
        lease.take(storage)
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 0.0)
    second = lease.take(storage)
    first.release()
    assert storage.exists("lease.json")
    second.release()
    assert not storage.exists("lease.json")


def test_an_owner_that_slept_notices(monkeypatch):
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


def test_a_killed_writer_loses_nothing(tmp_path):
    code = """
import os, signal, sys
sys.path.insert(0, "tests")
from log_helpers import every_kind
from study.log import EventLog
from study.storage import Storage
log = EventLog(Storage.open(sys.argv[1]))
for event in every_kind():
    log.append(event)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with EventLog(Storage.open(tmp_path)) as again:
        assert again.events == EVENTS
