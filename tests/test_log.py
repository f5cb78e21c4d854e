"""The study log loses nothing that was appended, and is written by one process at a time."""

import subprocess
import sys
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_helpers import curve, every_kind, opened, whole

from study import log
from study.follow import Follower
from study.log import CorruptLog, EventLog, event_log, head, writers
from study.store import lease
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


def write(storage, events):
    with EventLog(storage) as opened_log:
        for event in events:
            opened_log.append(event)


def forget(storage):
    """As a log that was copied without its heads."""
    for name in head.NAMES:
        storage.delete(name)


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
        assert again.remarks == []


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


def test_torn_last_part():
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    write(storage, EVENTS)
    forget(storage)
    part = "log/000000-0001.jsonl"
    storage.write_bytes(part, storage.read_bytes(part)[:-5])
    write(storage, EVENTS[-1:])
    assert log.read(storage) == EVENTS
    forget(storage)
    storage.write_bytes(part, storage.read_bytes(part)[:-5])
    with pytest.raises(CorruptLog, match=r"000001-\d+\.jsonl follows"):
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
    part = "log/000000-0001.jsonl"
    local.write_bytes(part, memory.read_bytes(part))
    write(local, EVENTS[2:4])
    assert log.FILE not in local.list()
    memory.write_bytes(part, local.read_bytes(part))
    write(memory, EVENTS[4:])
    assert log.read(memory) == EVENTS


def test_parts_of_the_first_versions_are_read():
    storage = Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/study")
    storage.write_bytes("log/000000.jsonl", b"".join(map(log.to_line, EVENTS[:4])))
    write(storage, EVENTS[4:])
    assert log.read(storage) == EVENTS


def test_closed_is_closed(storage):
    writer = EventLog(storage)
    writer.close()
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.append(EVENTS[0])


def test_a_killed_writer_loses_nothing(tmp_path):
    code = """
import os, signal, sys
sys.path.insert(0, "tests")
from log_helpers import every_kind
from study.log import EventLog
from study.store.storage import Storage
log = EventLog(Storage.open(sys.argv[1]))
for event in every_kind():
    log.append(event)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with EventLog(Storage.open(tmp_path)) as again:
        assert again.events == EVENTS
