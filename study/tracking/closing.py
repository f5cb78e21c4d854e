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
from study.finished import Finished
from study.objectives import LATENCY
from study.state import StudyState
from study.store.files import FILE, REPORT, artifact, in_writing
from study.store.storage import Storage
from study.tracking.mirror import MODEL, Mirror
from study.tracking.models import ON_FRONT, Model
from study.tracking.note import before, note
from study.tracking.shown import (
    TABLE_LATENCY,
    final_metrics,
    growth,
    name_of,
    params_of,
    tested,
    word,
)
from study.tracking.view import View

SUMMARY = f"{REPORT}/summary.md"
_LEADING = ("ratio", "file_bytes", "val_", "test/")


def show_view(mirror: Mirror, state: StudyState, storage: Storage, name: str) -> bool:
    """Save how the table of the runs opens; False while the study does not say what it trades.

    Raises:
        MlflowException: the store fails. It can be done again.
        StorageError: a file of the study cannot be read.
    """
    study = _described(state, storage, name)
    if study is None:
        return False
    named = {LATENCY: TABLE_LATENCY}
    further = [named.get(aim.name, aim.name.removeprefix("log2_")) for aim in study.aims[2:]]
    began = state.opened[0].at
    view = View(state.study_id, name, study.objective.name, further, began)
    if mirror.views.show(view):
        mirror.pages.view = view.key
        mirror.say(before(name, mirror.pages.links))
    return True


def show_end(
    mirror: Mirror, state: StudyState, storage: Storage, name: str, last: Mapping[str, Any]
) -> None:
    """Write what a study came to, and close its runs; ``last`` is the study's last message.

    Raises:
        MlflowException: the store fails. All of it can be done again.
        StorageError: a file of the study cannot be read.
    """
    front, study = list(last["front"]), _described(state, storage, name)
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(storage, folder)
        artifacts = {i: files.path(artifact(i)) for i in front if files.has(artifact(i))}
        mirror.mark_front(front, artifacts)
        if state.frozen:
            mirror.show_seeds(state.frozen)
        mirror.models.show([*_models(mirror, state, artifacts)])
        # When the study was closed: a second tracker says the same.
        at = state.closed[-1].at if state.closed else time.time()
        text = before(name, mirror.pages.links)
        if study and storage.exists(SUMMARY) and last["status"] != "KILLED":
            text = _note(mirror, study, front)
        metrics = [*growth(study)] if study else []
        mirror.finish(last["status"], metrics, files.shown(), at, text)


def _described(state: StudyState, storage: Storage, name: str) -> Finished | None:
    """The study with what it says of itself, once it does."""
    if not storage.exists(FILE):
        return None
    return Finished(name, storage, json.loads(storage.read_text(FILE)), state)


def _models(mirror: Mirror, state: StudyState, front: Collection[str]) -> Iterator[Model]:
    """The front's points that have a file, with what their runs say of settings and results."""
    for trial in state.ended:
        run = mirror.run_of(trial.trial_id)
        if trial.trial_id not in front or run is None:
            continue
        found = state.verifications.get(trial.trial_id)
        file = f"runs:/{run.run_id}/{MODEL}/{posixpath.basename(artifact(trial.trial_id))}"
        verified = word(bool(found and found.verified))
        metrics = [*final_metrics(trial), *(tested(trial, found) if found else ())]
        metrics.sort(key=lambda metric: not metric.key.startswith(_LEADING))  # columns, in order
        yield Model(
            trial.trial_id,
            run.run_id,
            name_of(trial),
            {param.key: param.value for param in params_of(trial)},
            metrics,
            {ON_FRONT: word(True), "verified": verified, "file": file},
        )


def _note(mirror: Mirror, study: Finished, front: list[str]) -> str:
    """The report's words."""
    pages, report = mirror.pages, mirror.pages.run(mirror.parent.run_id, "/artifacts/report.html")
    runs = {i: pages.run(run.run_id) for i in front if (run := mirror.run_of(i))}
    links = [f"[The report]({report})", *pages.links]
    summary, where = study.storage.read_text(SUMMARY), str(study.storage)
    return note(summary, study.state, front, study.objective, links, runs, where)


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
