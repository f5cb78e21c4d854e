"""The ledger of test reads: how often each test split was looked at, across a storage's studies."""

from __future__ import annotations

import json
from typing import Any

from study.storage import Storage

FILE = "test_reads.json"


def reads(storage: Storage, data_hash: str) -> list[dict[str, Any]]:
    """All reads of the data so far, the oldest first: when, by which study, of how many points."""
    if not storage.exists(FILE):
        return []
    found: list[dict[str, Any]] = json.loads(storage.read_text(FILE)).get(data_hash, [])
    return found


def add(storage: Storage, data_hash: str, study: str, points: int, at: str) -> None:
    """Enter a read, before it is made: a read that fails half-way has been one."""
    ledger = json.loads(storage.read_text(FILE)) if storage.exists(FILE) else {}
    ledger.setdefault(data_hash, []).append({"at": at, "study": study, "points": points})
    storage.write_text(FILE, json.dumps(ledger, indent=1) + "\n")
