"""A local log cut, damaged, emptied or exchanged: nothing whole is lost, nothing hidden."""

import os

import pytest
from log_helpers import every_kind

from study import log
from study.log import CorruptLog, EventLog, event_log, head
from study.store.storage import Storage

EVENTS = [*every_kind()[:1], *every_kind()[-4:]]
LINES = [log.to_line(event) for event in EVENTS]
DATA = b"".join(LINES)
LAST = 4  # records: of a suggestion, an answer, a verification and the end


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The page cache is enough for what is tested here."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(event_log, "SYNC_SECONDS", 0.0)


def starts():
    """Byte offset at which each of the last records begins."""
    return [len(b"".join(LINES[:n])) for n in range(len(LINES) - LAST, len(LINES))]


def whole_before(length):
    """Records that are whole within so many bytes."""
    return sum(len(b"".join(LINES[: n + 1])) <= length for n in range(len(LINES)))


def reopened(folder, data):
    """Open a log of these bytes, add an event; what was found, and what was put aside."""
    storage = Storage.open(folder)
    storage.write_bytes(log.FILE, data)
    with EventLog(storage) as again:
        found = again.events
        again.append(EVENTS[0])
    assert log.read(storage) == [*found, EVENTS[0]]
    aside = [storage.read_bytes(n) for n in storage.list() if n.startswith("log.torn-")]
    assert len(aside) == len(again.remarks) <= 1
    return found, b"".join(aside)


def test_cut_at_every_byte_of_the_last_records(tmp_path):
    for length in range(starts()[0], len(DATA)):
        kept = whole_before(length)
        torn = DATA[len(b"".join(LINES[:kept])) : length]
        assert reopened(tmp_path / str(length), DATA[:length]) == (EVENTS[:kept], torn)


def test_every_byte_of_the_last_record_changed(tmp_path):
    last = starts()[-1]
    for place in range(last, len(DATA)):
        bad = bytearray(DATA)
        bad[place] ^= 1 << place % 8
        assert reopened(tmp_path / str(place), bytes(bad)) == (EVENTS[:-1], bytes(bad[last:]))


def test_every_bit_of_the_records_before_the_last(tmp_path):
    begins = starts()
    for number, (start, after) in enumerate(zip(begins, begins[1:], strict=False)):
        line = len(LINES) - LAST + number + 1
        for place in range(start, after):
            # Without its end, a line swallows the next, which may be the last.
            if place == begins[-1] - 1:
                continue
            for bit in range(8):
                bad = bytearray(DATA)
                bad[place] ^= 1 << bit
                with pytest.raises(CorruptLog, match=rf"line {line} \(byte {start}\)"):
                    log.parse(bytes(bad))


def saved(folder):
    """A log that was closed in good order."""
    storage = Storage.open(folder)
    with EventLog(storage) as writer:
        for event in EVENTS:
            writer.append(event)
    return storage


def test_a_log_that_is_shorter_than_it_was_is_refused(tmp_path):
    storage = saved(tmp_path)
    for kept in range(len(EVENTS)):
        short = b"".join(LINES[:kept])
        storage.write_bytes(log.FILE, short)
        missing = f"{len(EVENTS) - kept} of {len(EVENTS)} events are missing"
        for open_it in (log.read, EventLog):
            with pytest.raises(CorruptLog, match=missing):
                open_it(storage)
        assert storage.read_bytes(log.FILE) == short


def test_it_is_refused_until_the_user_says_so(tmp_path):
    storage = saved(tmp_path)
    storage.write_bytes(log.FILE, b"".join(LINES[:3]))
    with pytest.raises(CorruptLog, match="delete log.head-0 and log.head-1"):
        EventLog(storage)
    for name in head.NAMES:
        storage.delete(name)
    with EventLog(storage) as again:
        assert again.events == EVENTS[:3]


def test_a_deleted_log_still_stands_for_a_study(tmp_path):
    storage = saved(tmp_path)
    storage.delete(log.FILE)
    assert log.exists(storage)
    with pytest.raises(CorruptLog, match=rf"{log.FILE} is gone, with {len(EVENTS)} of"):
        log.read(storage)


def test_the_log_of_another_study_is_refused(tmp_path):
    storage = saved(tmp_path)
    storage.write_bytes(log.FILE, b"".join([*LINES[1:], *LINES]))
    with pytest.raises(CorruptLog, match="others than those written here"):
        log.read(storage)


def test_a_longer_log_is_good(tmp_path):
    """Its writer was killed before it could say so."""
    storage = saved(tmp_path)
    storage.write_bytes(log.FILE, DATA + LINES[0])
    with EventLog(storage) as again:
        assert again.events == [*EVENTS, EVENTS[0]]
        assert again.remarks == []


def test_the_head_follows_the_log_while_it_is_open(tmp_path):
    storage = Storage.open(tmp_path)
    with EventLog(storage) as writer:
        for count, event in enumerate(EVENTS, start=1):
            writer.append(event)
            writer.flush()
            found, damaged = head.read(storage)
            assert (found.saved.events, damaged) == (count, [])
            assert found.saved.files[log.FILE].length == storage.size(log.FILE)


def test_a_log_file_that_is_exchanged_while_it_is_written_is_told(tmp_path):
    storage = Storage.open(tmp_path)
    writer = EventLog(storage)
    writer.append(EVENTS[0])
    writer.flush()
    os.rename(tmp_path / log.FILE, tmp_path / "moved")
    with pytest.raises(OSError, match=r"log\.jsonl was deleted or replaced"):
        [writer.append(event) or writer.flush() for event in EVENTS[1:3]]
    with pytest.raises(OSError, match="deleted or replaced"):
        writer.close()
