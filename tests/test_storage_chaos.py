"""The study log on real stores that fail: S3 by a server of its own, and a small disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import s3_server
from log_helpers import opened, whole

from study import log
from study.log import EventLog, event_log
from study.store import lease, patience
from study.store.patience import GaveUp, Patience
from study.store.storage import Storage

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
KILLS = 3
EVENTS = [opened(), *(event for n in range(40) for event in whole(n))]


@pytest.fixture
def s3():
    with s3_server.running() as server:
        yield server


def put_of(what):
    """Whether a request stores a file of this kind."""
    return lambda method, path: method == "PUT" and what in path


WRITER = """
import sys
sys.path.insert(0, "tests")
from test_storage_chaos import EVENTS
from study.store import lease
from study.log import EventLog, event_log, writers
from study.store.storage import Storage
lease.SETTLE_SECONDS, event_log.SYNC_SECONDS, writers.PART_BYTES = 0.0, 1e6, 20000
with EventLog(Storage.open(sys.argv[1])) as log:
    for number, event in enumerate(EVENTS[len(log.events):]):
        log.append(event)
        if number % 5 == 4:
            log.flush()
            print(len(log.events) + number + 1, flush=True)
    log.flush()
print("done", flush=True)
"""


@pytest.mark.parametrize("between", ["before the data", "data and head", "after the head"])
def test_s3_writer_is_killed_at_every_turn(s3, between):
    """Each process is killed within its third batch; the last one is left alone."""
    storage, where = Storage.open(s3.uri), {"before the data": "/log/"}.get(between, "/log.head-")
    stored, done, kills = 0, False, 0

    def killer(process, seen):
        def kill(method, path):
            if not put_of(where)(method, path):
                return None
            seen.append(path)
            if len(seen) != 5:
                return None
            if between == "after the head":
                threading.Timer(0.02, process.kill).start()
                return None
            os.kill(process.pid, signal.SIGKILL)
            return "503 Service Unavailable"

        return kill

    while not done:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, s3.uri], stdout=subprocess.PIPE, text=True
        )
        s3.before = killer(process, []) if kills < KILLS else lambda method, path: None
        for line in process.stdout:
            done = line == "done\n"
            stored = stored if done else int(line)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        found = log.read(storage)
        assert found == EVENTS[: len(found)]
        assert len(found) >= stored
    assert kills == KILLS
    assert log.read(storage) == EVENTS


def test_s3_that_answers_503_and_slowly(s3, monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.02)
    chance, said = random.Random(3), []

    def trouble(method, path):
        if method == "PUT" and chance.random() < 0.5:
            return "503 Slow Down"
        time.sleep(chance.random() * 0.05)
        return None

    storage = Storage.open(s3.uri).patient(Patience(120.0, said.append))
    with EventLog(storage) as writer:
        s3.before = trouble
        for event in EVENTS[:60]:
            writer.append(event)
            time.sleep(0.02)
    s3.before = lambda method, path: None
    assert log.read(storage) == EVENTS[:60]


def test_s3_that_is_gone_for_good_is_told(s3, monkeypatch):
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.02)
    storage = Storage.open(s3.uri).patient(Patience(1.0, [].append))
    writer = EventLog(storage)
    writer.append(EVENTS[0])
    writer.flush()
    s3.before = lambda method, path: "503 Slow Down"
    writer.append(EVENTS[1])
    with pytest.raises(GaveUp, match="--resume goes on"):
        writer.flush()
    with pytest.raises(GaveUp):
        writer.close()
    s3.before = lambda method, path: None
    assert log.read(storage) == EVENTS[:1]


CLAIMANT = """
import sys, time
from study.store.lease import LeaseHeld, take
from study.store.storage import Storage
storage = Storage.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = take(storage)
except LeaseHeld:
    print("refused", flush=True)
else:
    print("has it", flush=True)
    sys.stdin.readline()
    lease.check()
    lease.release()
"""


def test_of_processes_that_claim_a_study_on_s3_at_once_one_gets_it(s3):
    for number in range(3):
        words = [sys.executable, "-c", CLAIMANT, s3.uri.replace("/study?", f"/study{number}?")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        claimants = [subprocess.Popen(words, **pipes) for _ in range(3)]
        assert {c.stdout.readline() for c in claimants} == {"ready\n"}
        for c in claimants:
            print(file=c.stdin, flush=True)
        said = sorted(c.stdout.readline() for c in claimants)
        assert said == ["has it\n", "refused\n", "refused\n"]
        for c in claimants:
            c.communicate("\n", timeout=30)


@pytest.fixture
def disk(tmp_path):
    """A disk of 16 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Take all the room that is left."""
    file = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(file, b"x" * 4096):
            pass
    os.close(file)


def test_a_full_disk_is_waited_for(disk, monkeypatch):
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.2)
    said = []
    storage = Storage.open(disk / "study").patient(Patience(60.0, said.append))
    with EventLog(storage) as writer:
        writer.append(EVENTS[0])
        fill(disk)
        thread = threading.Thread(target=lambda: [writer.append(e) for e in EVENTS[1:]])
        thread.start()
        time.sleep(1.0)
        assert thread.is_alive()
        assert "No space left on device; trying again" in said[0]
        found = log.read(storage)
        assert found == EVENTS[: len(found)]
        (disk / "filler").unlink()
        thread.join()
    assert log.read(storage) == EVENTS


def test_a_disk_that_stays_full_leaves_a_log_that_goes_on(disk, monkeypatch):
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.02)
    storage = Storage.open(disk / "study").patient(Patience(0.5, [].append))
    writer = EventLog(storage)
    fill(disk)
    taken = []
    with suppress(GaveUp):
        for event in EVENTS:
            writer.append(event)
            taken.append(event)
    assert len(taken) < len(EVENTS)
    with pytest.raises(GaveUp, match="No space left on device.*--resume goes on"):
        writer.append(EVENTS[0])
    with pytest.raises(GaveUp):
        writer.close()
    (disk / "filler").unlink()
    assert log.read(storage) == taken
    with EventLog(storage) as again:
        assert again.events == taken


def test_a_disk_that_is_read_only_for_a_while(disk):
    said = []
    storage = Storage.open(disk / "study").patient(Patience(60.0, said.append))
    storage.write_bytes("study.json", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    back = threading.Timer(
        0.5, lambda: subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    )
    back.start()
    storage.write_bytes("study.json", b"new")
    back.join()
    assert storage.read_bytes("study.json") == b"new"
    assert storage.list() == ["study.json"]
    assert "Read-only file system" in said[0]
