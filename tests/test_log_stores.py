"""The log on an object store: old or new, never a mix, whenever its writer dies."""

from contextlib import suppress

import pytest
from log_helpers import every_kind, opened, whole
from object_store import Store

from study import log
from study.follow import Follower
from study.log import CorruptLog, EventLog, event_log, head, writers
from study.store import lease
from study.store.storage import StorageError

EVENTS = [opened(), *(event for n in range(3) for event in whole(n)), *every_kind()[-2:]]


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """Events are stored when the test says so, and parts are short."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 1e6)
    monkeypatch.setattr(writers, "PART_BYTES", 1500)


def write(store, batches, progress=None):
    """Store each batch; ``progress`` collects how many events are known to be stored."""
    with EventLog(store.storage()) as writer:
        for batch in batches:
            for event in batch:
                writer.append(event)
            writer.flush()
            if progress is not None:
                progress.append(len(batch))


def two_sessions(store, progress):
    batches = [EVENTS[i : i + 3] for i in range(0, len(EVENTS), 3)]
    write(store, batches[:4], progress)
    write(store, batches[4:], progress)


def bury(store):
    """What a dead process leaves, once its lease is void."""
    left = store.copy()
    left.files.pop("bucket/study/lease.json", None)
    return left


def test_a_kill_between_any_two_writes_leaves_the_old_or_the_new():
    store, progress = Store(), []
    two_sessions(store, progress)
    assert log.read(store.storage()) == EVENTS
    assert len([n for n in store.storage().list("log")]) > 2
    for count in range(len(store.writes)):
        killed, stored = Store(), []
        killed.dies_after(count)
        with suppress(StorageError):
            two_sessions(killed, stored)
        left = bury(killed)
        found = log.read(left.storage())
        assert found == EVENTS[: len(found)]
        assert len(found) >= sum(stored)
        write(left, [EVENTS[len(found) :]])
        assert log.read(left.storage()) == EVENTS


def test_a_reader_sees_every_state_whole():
    store, seen, followed = Store(), [], []
    follower = Follower(store.storage())

    def look(path):
        events = log.read(store.storage())
        assert events == EVENTS[: len(events)]
        seen.append(len(events))
        followed.extend(follower.poll())
        assert followed == events

    store.written = look
    two_sessions(store, [])
    assert seen == sorted(seen)
    assert seen[-1] == len(EVENTS)


def test_finished_parts_are_never_written_again():
    store = Store()
    two_sessions(store, [])
    parts = [path for path in store.writes if "/log/" in path]
    assert parts == sorted(parts)


@pytest.mark.parametrize("full", [False, True])
def test_what_a_process_writes_after_it_lost_the_study_does_not_count(full, monkeypatch):
    """It slept between its last look at the lease and its write: nothing can keep it from that."""
    store = Store()
    stale = EventLog(store.storage())
    for event in EVENTS[:4]:
        stale.append(event)
    if full:
        monkeypatch.setattr(writers, "PART_BYTES", 1)  # its next write begins a part
    stale.flush()
    for event in EVENTS[10:14]:
        stale._writer.write(log.to_line(event))
    del store.files["bucket/study/lease.json"]
    successor = EventLog(store.storage())
    assert successor.events == EVENTS[:4]
    successor.append(EVENTS[4])
    successor.flush()
    stale._heads.write(stale._writer.sync())
    assert log.read(store.storage()) == EVENTS[:5]
    assert Follower(store.storage()).poll() == EVENTS[:5]
    for event in EVENTS[5:]:
        successor.append(event)
    successor.close()
    assert log.read(store.storage()) == EVENTS
    with pytest.raises(lease.LeaseLost):
        stale._lease._look(), stale._lease.check()
    with suppress(StorageError):
        stale.close()
    assert log.read(store.storage()) == EVENTS


@pytest.mark.parametrize("name", head.NAMES)
def test_one_damaged_head_is_made_up_for_by_the_other(name):
    store = Store()
    two_sessions(store, [])
    store.files[f"bucket/study/{name}"] = b"17 00000000 {}\n"
    with EventLog(store.storage()) as again:
        assert again.events == EVENTS
        assert [name in remark for remark in again.remarks] == [True]
    assert head.read(store.storage())[1] == []


def test_a_lost_part_is_missed():
    store = Store()
    two_sessions(store, [])
    names = [path for path in store.files if "/log/" in path]
    for name in names:
        left = store.copy()
        del left.files[name]
        with pytest.raises(CorruptLog, match=f"{name[-18:]} is gone, with .* events"):
            log.read(left.storage())
    for path in (names[0], *(f"bucket/study/{name}" for name in head.NAMES)):
        del store.files[path]
    with pytest.raises(CorruptLog, match="part 000000 is gone"):
        log.read(store.storage())
