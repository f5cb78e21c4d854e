"""Studies in a storage that outlives the machines they ran on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression.registry import InvalidSetting
from study import log
from study.events import Closed
from study.finished import study_names
from study.storage import Storage

KEPT = "artifacts/"  # files that are never written again once they are whole


@dataclass(frozen=True)
class Ended:
    """A study, and whether it came to its end."""

    name: str
    well: bool


def fetch(uri: str, name: str | None, here: Path) -> Ended:
    """Copy a study's folder, the newest by default, below ``here``.

    Raises:
        InvalidSetting: there is no such study.
        StorageError: the storage cannot be read from here, or the copy not be written.
    """
    root = Storage.open(uri)
    names = study_names(root)
    chosen = name or max(names, key=lambda each: _began(root.sub(each)), default=None)
    if chosen not in names or chosen is None:
        known = ", ".join(names) or "none"
        raise InvalidSetting([f"--name: no study '{name or ''}' in {root}; there: {known}"])
    there = root.sub(chosen)
    copy(there, Storage.open(str(here.absolute())).sub(chosen))
    events = log.read(there)
    last = events[-1] if events else None
    return Ended(chosen, isinstance(last, Closed) and last.reason == "exit 0")


def _began(study: Storage) -> float:
    events = log.read(study)
    return float(getattr(events[0], "at", 0.0)) if events else 0.0


def copy(source: Storage, target: Storage) -> None:
    """All files of one to the other; of those that never change only what is missing."""
    for file, size in source.sizes().items():
        whole = file.startswith(KEPT) and target.exists(file) and target.size(file) == size
        if not whole:
            target.write_bytes(file, source.read_bytes(file))
