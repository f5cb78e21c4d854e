"""A study's results on the user's machine: from the head, or from the storage that outlives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.masking import masked
from clusters.fetch import fetch
from clusters.ssh import Ssh
from compression.registry import InvalidSetting
from study import log
from study.errors import StudyError
from study.events import Closed
from study.finished import study_names
from study.remote.order import in_our_words, say
from study.remote.spec import RESULTS
from study.store.storage import Storage

HERE = Path("results")
KEPT = "artifacts/"  # files that are never written again once they are whole


@dataclass(frozen=True)
class Ended:
    """A study, and whether it came to its end."""

    name: str
    well: bool


def from_head(head: Ssh, name: str) -> None:
    """A study's files from the head's disk.

    Raises:
        StudyError: they could not be copied whole.
    """
    with in_our_words():
        fetch(head, f"{RESULTS}/{name}/", HERE / name)
    _tell(HERE / name)


def from_storage(uri: str | None, name: str | None) -> int:
    """What a cluster that is gone left in its storage; 0 if the study had come to its end.

    Raises:
        StudyError: no storage that outlives the machines is known.
        InvalidSetting: there is no such study.
    """
    if uri is None or "://" not in uri:
        raise StudyError(
            "the cluster's file names no storage that outlives its machines; what a study wrote to "
            "one of its own (storage, or --set storage) is there still"
        )
    ended = newest(uri, name, HERE)
    _tell(HERE / ended.name)
    say(f"the whole study: {masked(uri)}/{ended.name}")
    return 0 if ended.well else 1


def _tell(here: Path) -> None:
    say(f"results: {here}")
    for file in sorted((here / "report").glob("[!.]*")):
        say(f"report: {file}")


def newest(uri: str, name: str | None, here: Path) -> Ended:
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
