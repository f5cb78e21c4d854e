"""The end of a study in MLflow: its front, the models on it, its report and what that says."""

from __future__ import annotations

import json
import os
import posixpath
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.errors import StorageError
from study.files import FILE, artifact, in_writing
from study.finished import Finished
from study.state import StudyState
from study.storage import Storage
from study.tracking.mirror import MODEL, Mirror
from study.tracking.models import ON_FRONT, Model
from study.tracking.note import before, note
from study.tracking.shown import final_metrics, name_of, params_of, tested, word

REPORT, SUMMARY = "report", "report/summary.md"


def show_end(
    mirror: Mirror, state: StudyState, storage: Storage, name: str, last: Mapping[str, Any]
) -> None:
    """Write what a study came to, and close its runs; ``last`` is the study's last message.

    Raises:
        MlflowException: the store fails. All of it can be done again.
        StorageError: a file of the study cannot be read.
    """
    front = list(last["front"])
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(storage, folder)
        artifacts = {i: files.path(artifact(i)) for i in front if files.has(artifact(i))}
        mirror.mark_front(front, artifacts)
        if state.frozen:
            mirror.show_seeds(state.frozen)
        mirror.models.show([*_models(mirror, state, artifacts)])
        # When the study was closed: a second tracker says the same.
        at = state.closed[-1].at if state.closed else time.time()
        ended = last["status"] != "KILLED"
        text = _note(mirror, state, storage, name, front) if ended else before(name)
        mirror.finish(last["status"], last["metrics"], files.shown(), at, text)


def _models(mirror: Mirror, state: StudyState, front: Collection[str]) -> Iterator[Model]:
    """The front's points that have a file, with what their runs say of settings and results."""
    for trial in state.ended:
        run = mirror.run_of(trial.trial_id)
        if trial.trial_id not in front or run is None:
            continue
        found = state.verifications.get(trial.trial_id)
        file = f"runs:/{run.run_id}/{MODEL}/{posixpath.basename(artifact(trial.trial_id))}"
        verified = word(bool(found and found.verified))
        yield Model(
            trial.trial_id,
            run.run_id,
            name_of(trial),
            {param.key: param.value for param in params_of(trial)},
            [*final_metrics(trial), *(tested(trial, found) if found else ())],
            {ON_FRONT: word(True), "verified": verified, "file": file},
        )


def _note(mirror: Mirror, state: StudyState, storage: Storage, name: str, front: list[str]) -> str:
    """The report's words; what stood there before, of a study that has none."""
    if not (storage.exists(SUMMARY) and storage.exists(FILE)):
        return before(name)
    study = Finished(name, storage, json.loads(storage.read_text(FILE)), state)
    links = {"": mirror.link()} | {i: mirror.link(i) for i in front}
    known = {i: link for i, link in links.items() if link}
    summary = storage.read_text(SUMMARY)
    return note(summary, state, front, study.objective, known, str(storage))


@dataclass(frozen=True)
class _Files:
    """A study's files as files of this machine; those of a storage elsewhere are copied."""

    storage: Storage
    folder: str

    def has(self, name: str) -> bool:
        """Whether there is one, with something in it."""
        try:
            return self.storage.size(name) > 0
        except StorageError:
            return False

    def path(self, name: str) -> str:
        """A path on this machine with the file's content."""
        if self.storage.is_local:
            return self.storage.path(name)
        path = os.path.join(self.folder, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(self.storage.read_bytes(name))
        return path

    def shown(self) -> dict[str, str]:
        """What the study's run gets: the report's files, and what the study is, by their names."""
        sizes = self.storage.sizes(REPORT)
        hidden = f"{REPORT}/."  # lists of what was written
        report = [
            name
            for name, size in sizes.items()
            if size and not in_writing(name) and not name.startswith(hidden)
        ]
        names = [*report, *([FILE] if self.has(FILE) else [])]
        return {name.removeprefix(f"{REPORT}/"): self.path(name) for name in names}
