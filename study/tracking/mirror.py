"""The runs of one study in an MLflow store: found by tags, brought up to the study's state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from study.events import CONFIRM, Frozen
from study.state import OPEN, Phase, TrialState
from study.store.lease import process_alive
from study.tracking.client import Client
from study.tracking.models import Models
from study.tracking.note import before
from study.tracking.pages import Pages
from study.tracking.shown import (
    cause,
    curve,
    final_metrics,
    milliseconds,
    name_of,
    params_of,
    tested,
    word,
)
from study.tracking.stored import NotTaken, Store, StoredRun, refused
from study.tracking.view import Views
from trainables.record import Verification, canonical

EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "paretune"
STUDY, TRIAL, OWNER, BEAT = "paretune.study", "paretune.trial", "paretune.owner", "paretune.beat"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
MODEL = "model"  # the folder of a run's model
STALE_SECONDS = 600.0
MOST_AT_ONCE = 32  # runs that are read back together


class Mirror:
    """Writes runs of one study. Every call may raise MLflow's errors and can be repeated.

    A run whose last call failed is in doubt: whether it was made, and what of it was taken, is
    looked up before anything more is sent. ``models`` and ``views`` are those of the study, and
    ``pages`` where MLflow shows it.
    """

    def __init__(self, client: Client, name: str, study_id: str, owner: str) -> None:
        """Connect; makes the experiment if it is absent."""
        self._store = Store(client, EXPERIMENT)
        self._name, self._study_id, self._owner = name, study_id, owner
        self.models = Models(client, self._store.experiment, study_id)
        self.views, self.pages = (
            Views(client, self._store.experiment),
            Pages(self._store.experiment),
        )
        self._runs: dict[str, StoredRun] = {}
        self._in_doubt: set[str] = set()
        self._parent: StoredRun | None = None

    @property
    def runs(self) -> int:
        """Runs of trials that are known."""
        return len(self._runs)

    def run_of(self, trial_id: str) -> StoredRun | None:
        """The run of a trial, if it has one."""
        return self._runs.get(trial_id)

    @property
    def parent(self) -> StoredRun:
        """The study's own run."""
        if self._parent is None:
            raise NotTaken("the study has no run yet")
        return self._parent

    def reconcile(self, params: Mapping[str, str]) -> None:
        """Find this study's runs, open its own run (again), close what dead studies left open."""
        self._weed()
        tags = {STUDY: self._study_id, OWNER: self._owner, BEAT: repr(time.time())}
        tags[NOTE] = before(self._name)
        parent = self._parent or self._store.create(self._name, tags)
        self._store.reopen(parent)
        self._store.write(parent, (), [Param(k, v[:6000]) for k, v in params.items()], tags)
        self._store.settle([parent])
        self._parent = parent
        self._close_dead()

    def beat(self) -> None:
        """Show other hosts that this study lives."""
        self._store.write(self.parent, tags={BEAT: repr(time.time())})
        self._store.settle([self.parent])

    def say(self, text: str) -> None:
        """What the study's run opens on, from now on."""
        self._store.write(self.parent, tags={NOTE: text})
        self._store.settle([self.parent])

    def sync(
        self, trials: Sequence[TrialState], verifications: Mapping[str, Verification]
    ) -> dict[int, MlflowException]:
        """Bring the runs of trials up to their state; which numbers were refused, and why.

        All is sent and read back before the first run is closed: a run that ended is complete.
        Answered and waiting trials have no runs.
        """
        wrong: dict[int, MlflowException] = {}
        runs: dict[int, StoredRun] = {}

        def attempt(trial: TrialState, action: Callable[[TrialState], None]) -> None:
            try:
                action(trial)
            except MlflowException as error:
                if not refused(error):
                    raise
                wrong[trial.number] = error
                runs.pop(trial.number, None)

        def send(trial: TrialState) -> None:
            runs[trial.number] = run = self._take(trial)
            if not run.ended:
                self._report(trial, run)
            if (found := verifications.get(trial.trial_id)) is not None:
                self._verify(trial, run, found)

        shown = [trial for trial in trials if _has_run(trial)]
        for trial in shown:
            attempt(trial, send)
        self._store.settle(runs.values())
        for trial in shown:
            if trial.number in runs and trial.phase not in OPEN:
                attempt(trial, lambda trial: self._close(trial, runs[trial.number]))
        self._store.settle_closed([*runs.values()], self.parent)
        self._in_doubt -= {trial.trial_id for trial in shown if trial.number in runs}
        return wrong

    def mark_front(self, front: Iterable[str], artifact_of: Mapping[str, str]) -> None:
        """Tag the runs on the front, untag those that left it, log each member's file once."""
        members = set(front)
        for trial_id, run in self._runs.items():
            on_front = word(trial_id in members)
            if run.tags.get("on_front") == on_front:
                continue
            if trial_id in members and trial_id in artifact_of:
                self._store.file(run, artifact_of[trial_id], MODEL)
            self._store.write(run, tags={"on_front": on_front})
            self._store.settle([run])

    def show_seeds(self, front: Frozen) -> None:
        """Log what the runs of each of the front's points came to over seeds, at what ships."""
        at = milliseconds(front.at)
        for member in front.members:
            run = self._runs.get(member.trial_id)
            if run is None or member.probability is None:
                continue
            figures = {"val_mean": member.mean, "val_low": member.low, "val_high": member.high}
            figures["probability"] = member.probability
            found = [Metric(k, v, at, 0) for k, v in figures.items() if v is not None]
            self._store.write(run, found)
            self._store.settle([run])

    def finish(
        self,
        status: str,
        metrics: Iterable[Metric],
        files: Mapping[str, str],
        at: float,
        note: str = "",
    ) -> None:
        """Close the runs: trials that are still open as KILLED, the study's own as ``status``.

        ``files`` are paths on this machine by the names that they get, ``note`` what the study's
        run opens on. A run that was made twice, for one of two answers was lost, is left once.
        """
        self.kill_open(at)
        ended = milliseconds(at)
        self._store.write(self.parent, metrics, tags={NOTE: note} if note else {})
        self._store.files(self.parent, files)
        self._store.end(self.parent, status, ended)
        self._store.settle([self.parent])
        self._weed()

    def kill_open(self, at: float) -> None:
        """Close the runs of trials that nobody works on any more."""
        sure = (run for i, run in self._runs.items() if i not in self._in_doubt)
        still_open = iter([run for run in sure if run.status == "RUNNING"])
        while batch := list(islice(still_open, MOST_AT_ONCE)):
            for run in batch:
                self._store.write(run, tags={"status": "interrupted"})
            self._store.settle(batch)
            for run in batch:
                self._store.end(run, "KILLED", milliseconds(at))
            self._store.settle_closed(batch, self.parent)

    def abandon(self) -> None:
        """The study is gone: close all its runs as KILLED."""
        now = time.time()
        self.kill_open(now)
        if self._parent:
            self._store.end(self._parent, "KILLED", milliseconds(now))

    def _take(self, trial: TrialState) -> StoredRun:
        """The trial's run, found or made; in doubt until all that is sent was read back."""
        if trial.trial_id in self._in_doubt:
            self._runs.pop(trial.trial_id, None)
            self._weed(trial.trial_id)
        self._in_doubt.add(trial.trial_id)
        if trial.trial_id not in self._runs:
            self._runs[trial.trial_id] = self._create(trial)
        return self._runs[trial.trial_id]

    def _create(self, trial: TrialState) -> StoredRun:
        tags = {
            STUDY: self._study_id,
            TRIAL: trial.trial_id,
            PARENT: self._above(trial),
            "role": trial.role,
            "number": str(trial.number),
            "status": trial.phase.value,
            "on_front": word(False),
            "verified": word(False),
        }
        if trial.source is not None:
            tags["inherited_from"] = trial.source
        return self._store.create(name_of(trial), tags, milliseconds(trial.started_at))

    def _above(self, trial: TrialState) -> str:
        """The run that a trial's run is shown under: the study's; of another seed the first's."""
        of = self._runs.get(str(trial.params.get("of"))) if trial.role == CONFIRM else None
        return (of or self.parent).run_id

    def _report(self, trial: TrialState, run: StoredRun) -> None:
        ended, tags = trial.phase not in OPEN, {"status": trial.phase.value}
        metrics = list(curve(trial, run.latest, run.start))
        if ended:
            metrics += final_metrics(trial)
            tags |= cause(trial)
        self._store.write(run, metrics, params_of(trial), tags)
        if not ended:
            self._store.reopen(run)
        elif trial.record is not None:
            self._store.text(run, canonical(trial.record), "record.json")

    def _close(self, trial: TrialState, run: StoredRun) -> None:
        """As the last thing."""
        if run.ended:
            return
        failed = trial.record is not None and trial.record.outcome.failed
        self._store.end(run, "FAILED" if failed else "FINISHED", milliseconds(trial.ended_at))

    def _verify(self, trial: TrialState, run: StoredRun, found: Verification) -> None:
        problems = "; ".join(found.problems)[:5000]
        tags = {"verified": word(found.verified), "problems": problems}
        self._store.write(run, tested(trial, found), tags=tags)

    def _weed(self, trial_id: str | None = None) -> None:
        """Take up what the store holds of the study, or of a trial, and leave each run once."""
        condition = f"tags.`{STUDY}` = '{self._study_id}'"
        if trial_id is not None:
            condition += f" AND tags.`{TRIAL}` = '{trial_id}'"
        found: dict[str, list[StoredRun]] = {}
        for run in self._store.search(condition):
            found.setdefault(run.data.tags.get(TRIAL, ""), []).append(StoredRun.of(run))
        if trial_id is None and self._parent and "" not in found:
            raise NotTaken("it does not show the study's run")
        for trial, runs in found.items():
            held = self._runs.get(trial) if trial else self._parent
            kept = _one_of(runs, held)
            for double in runs:
                if double is not kept:
                    self._store.delete(double.run_id)
            if trial:
                self._runs[trial] = kept
            else:
                self._parent = kept

    def _close_dead(self) -> None:
        others = self._store.search(
            f"attributes.status = 'RUNNING' AND tags.`{STUDY}` != '{self._study_id}'"
        )
        runs = list(others)
        living = {r.data.tags[STUDY] for r in runs if TRIAL not in r.data.tags and _lives(r)}
        for run in runs:
            if run.data.tags[STUDY] not in living:
                self._store.end(StoredRun.of(run), "KILLED", milliseconds(time.time()))


def _has_run(trial: TrialState) -> bool:
    return trial.phase is not Phase.ANSWERED and (trial.starts > 0 or trial.source is not None)


def _one_of(runs: list[StoredRun], held: StoredRun | None) -> StoredRun:
    """Of several runs of one trial that which is written; else one that ended, the oldest."""
    return min(runs, key=lambda run: (held is None or run.run_id != held.run_id, not run.ended))


def _lives(parent: Run) -> bool:
    alive = process_alive(parent.data.tags.get(OWNER, ""))
    beat = float(parent.data.tags.get(BEAT, 0))
    return time.time() - beat < STALE_SECONDS if alive is None else alive
