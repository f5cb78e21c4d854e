"""The ledger of test reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from study.store import reads
from study.store.storage import Storage


def test_every_read_is_counted_under_its_data(tmp_path):
    storage = Storage.open(tmp_path)
    assert reads.reads(storage, "a") == []
    reads.add(storage, "a", "one", 5, "2026-01-02")
    reads.add(storage, "a", "two", 7, "2026-01-01")
    reads.add(storage, "b", "one", 1, "2026-01-01")
    assert [r["study"] for r in reads.reads(storage, "a")] == ["two", "one"]
    assert len(reads.reads(storage, "b")) == 1


def test_studies_that_end_together_lose_nothing(tmp_path):
    storage = Storage.open(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: reads.add(storage, "a", str(i), i, str(i)), range(40)))
    assert len(reads.reads(storage, "a")) == 40
