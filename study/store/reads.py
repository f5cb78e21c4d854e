"""The ledger of test reads: how often each test split was looked at, across a storage's studies.

One small file a read, so that studies which end together do not lose each other's entries.
"""

from __future__ import annotations

import uuid
from typing import Any

from study.store import sealed
from study.store.storage import Storage

FOLDER = "test_reads"
_REMEDY = "it stands for a read of the test split: delete it, and that read is forgotten"


def reads(storage: Storage, data_hash: str) -> list[dict[str, Any]]:
    """All reads of the data so far, the oldest first: when, by which study, of how many points.

    Raises:
        StudyError: an entry is damaged.
    """
    folder = storage.sub(FOLDER).sub(data_hash)
    names = (name for name in folder.list() if name[-5:] == ".json")
    found = [read for name in names if (read := sealed.read(folder, name, _REMEDY))]
    return sorted(found, key=lambda read: str(read["at"]))


def add(storage: Storage, data_hash: str, study: str, points: int, at: str) -> None:
    """Enter a read, before it is made: a read that fails half-way has been one."""
    entry = {"at": at, "study": study, "points": points}
    name = f"{uuid.uuid4().hex}.json"
    sealed.write(storage.sub(FOLDER).sub(data_hash), name, entry)
