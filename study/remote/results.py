"""A study's results on the user's machine: from the head, or from the storage that outlives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from analysis.masking import masked
from clusters.fetch import fetch
from clusters.ssh import Ssh
from compression.registry import InvalidSetting
from study import log
from study.errors import StudyError
from study.events import Closed
from study.finished import study_names
from study.remote.order import in_our_words, say
from study.remote.spec import ANSWER, RESULTS
from study.store.files import FOLDER, REPORT
from study.store.storage import Storage

HERE = Path("results")
KEPT = "artifacts/"  # files that are never written again once they are whole


@dataclass(frozen=True)
class Ended:
    """A study that was followed, the exit code that says how it ended, and what more there is."""

    name: str
    code: int
    why: str = "the study's own words are on standard error"

    def answer(self) -> dict[str, Any]:
        """As ``study.run --json`` says it of a study that runs here.

        These are the job's own words, of the files that were fetched; where it left none of an end
        like this one, what was fetched and why there is no more.
        """
        here = (HERE / self.name).absolute()
        try:
            said = json.loads((here / ANSWER).read_bytes())
        except FileNotFoundError:
            said = {}
        if said.get("exit_code") == self.code:
            return _moved(said, here)
        found = {"name": self.name, "location": str(here), "exit_code": self.code}
        return found | ({"errors": [self.why]} if self.code else {})


def _moved(said: dict[str, Any], here: Path) -> dict[str, Any]:
    """The same of a copy of the study's folder: files that are there, MLflow if it is anywhere."""

    def found(folder: str, file: str | None) -> str | None:
        path = here / folder / Path(file or "-").name
        return str(path) if path.is_file() else None

    report = {kind: path for kind, file in said["report"].items() if (path := found(REPORT, file))}
    ships = found(FOLDER, said["smallest_certified"])
    at_the_head = urlsplit(said["tracking_uri"]).hostname in ("127.0.0.1", "localhost")
    seen = dict.fromkeys(("tracking_uri", "runs_page"), "") if at_the_head else {}
    return {**said, **seen, "location": str(here), "report": report, "smallest_certified": ships}


def forget(name: str) -> None:
    """What a study of this name said when it ended before is not how it ends now."""
    (HERE / name / ANSWER).unlink(missing_ok=True)


def from_head(head: Ssh, name: str) -> None:
    """A study's files from the head's disk.

    Raises:
        StudyError: they could not be copied whole.
    """
    with in_our_words():
        fetch(head, f"{RESULTS}/{name}/", HERE / name)
    _tell(HERE / name)


def from_storage(uri: str | None, name: str | None) -> Ended:
    """What a cluster that is gone left in its storage; code 0 if the study had come to its end.

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
    return ended


def _tell(here: Path) -> None:
    say(f"results: {here}")
    for file in sorted((here / REPORT).glob("[!.]*")):
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
    forget(chosen)
    copy(there, Storage.open(str(here.absolute())).sub(chosen))
    events = log.read(there)
    last = events[-1] if events else None
    well = isinstance(last, Closed) and last.reason == "exit 0"
    return Ended(chosen, 0 if well else 1, "" if well else f"{chosen} has not come to its end")


def _began(study: Storage) -> float:
    events = log.read(study)
    return float(getattr(events[0], "at", 0.0)) if events else 0.0


def copy(source: Storage, target: Storage) -> None:
    """All files of one to the other; of those that never change only what is missing."""
    for file, size in source.sizes().items():
        whole = file.startswith(KEPT) and target.exists(file) and target.size(file) == size
        if not whole:
            target.write_bytes(file, source.read_bytes(file))
