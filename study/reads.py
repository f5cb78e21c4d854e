"""The ledger of test reads: how often each test split was looked at, across a storage's studies.

One small file a read, so that studies which end together do not lose each other's entries.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from study.storage import Storage

FOLDER = "test_reads"


def reads(storage: Storage, data_hash: str) -> list[dict[str, Any]]:
    """All reads of the data so far, the oldest first: when, by which study, of how many points."""
    folder = storage.sub(FOLDER).sub(data_hash)
    found = [json.loads(folder.read_text(name)) for name in folder.list() if name[-5:] == ".json"]
    return sorted(found, key=lambda read: str(read["at"]))


def add(storage: Storage, data_hash: str, study: str, points: int, at: str) -> None:
    """Enter a read, before it is made: a read that fails half-way has been one."""
    entry = {"at": at, "study": study, "points": points}
    name = f"{uuid.uuid4().hex}.json"
    storage.sub(FOLDER).sub(data_hash).write_text(name, json.dumps(entry) + "\n")
