"""The runs of one study in an MLflow store: found by tags, brought up to the study's state."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from study.events import CONFIRM, Frozen
from study.lease import process_alive
from study.state import OPEN, Phase, TrialState
from study.tracking.shown import cause, curve, final_metrics, milliseconds, params_of, word
from trainables.record import Verification, canonical

EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "paretune"
STUDY, TRIAL, OWNER, BEAT = "paretune.study", "paretune.trial", "paretune.owner", "paretune.beat"
PARENT = "mlflow.parentRunId"
STALE_SECONDS = 600.0
_BATCH = 900  # metrics a call; MLflow takes 1000 things at once


@dataclass
class _Logged:
    """What a trial's run holds already."""

    run_id: str
    status: str = "RUNNING"
    phase: Phase | None = None
    start: int = 0  # which start of the trial
    reports: int = 0  # how many of that start
    params: bool = False
    ended: bool = False
    verification: Verification | None = None
    on_front: bool = False


class Mirror:
    """Writes runs of one study. Every call may raise MLflow's errors and can be repeated."""

    def __init__(self, uri: str, name: str, study_id: str, owner: str) -> None:
        """Connect; makes the database and the experiment if they are absent."""
        self._client = MlflowClient(uri)
        self._name, self._study_id, self._owner = name, study_id, owner
        self._experiment = self._find_experiment()
        self._logged: dict[str, _Logged] = {}
        self._parent = ""

    @property
    def runs(self) -> int:
        """Runs of trials that are known."""
        return len(self._logged)

    def reconcile(self, params: Mapping[str, str]) -> None:
        """Find this study's runs, open its own run (again), close what dead studies left open."""
        for run in self._search(f"tags.`{STUDY}` = '{self._study_id}'"):
            tags = run.data.tags
            if TRIAL not in tags:
                self._parent = self._parent or run.info.run_id
            elif tags[TRIAL] not in self._logged:
                self._logged[tags[TRIAL]] = _known(run)
        tags = {STUDY: self._study_id, OWNER: self._owner, BEAT: repr(time.time())}
        if self._parent:
            self._client.update_run(self._parent, "RUNNING")
            self._client.log_batch(self._parent, tags=[RunTag(k, v) for k, v in tags.items()])
        else:
            run = self._client.create_run(self._experiment, tags=tags, run_name=self._name)
            self._parent = run.info.run_id
            shown = [Param(k, v[:6000]) for k, v in params.items()]
            self._client.log_batch(self._parent, params=shown)
        self._close_dead()

    def beat(self) -> None:
        """Show other hosts that this study lives."""
        self._client.set_tag(self._parent, BEAT, repr(time.time()))

    def sync(self, trial: TrialState, verification: Verification | None = None) -> None:
        """Bring the run of a trial up to its state. Answered and waiting trials have none."""
        if trial.phase is Phase.ANSWERED or (trial.starts == 0 and trial.source is None):
            return
        known = self._logged.get(trial.trial_id)
        if known is None:
            known = self._logged[trial.trial_id] = self._create(trial)
        if not known.ended:
            self._report(trial, known)
            if trial.phase not in OPEN:
                self._end(trial, known)
        if verification is not None and verification != known.verification:
            self._verify(trial, known, verification)

    def mark_front(self, front: Iterable[str], artifact_of: Mapping[str, str]) -> None:
        """Tag the runs on the front, untag those that left it, log each member's file once."""
        members = set(front)
        for trial_id, known in self._logged.items():
            if known.on_front == (trial_id in members):
                continue
            if trial_id in members and trial_id in artifact_of:
                self._client.log_artifact(known.run_id, artifact_of[trial_id], "model")
            known.on_front = trial_id in members
            self._client.set_tag(known.run_id, "on_front", word(known.on_front))

    def show_seeds(self, front: Frozen) -> None:
        """Log what the runs of each of the front's points came to over seeds, at what ships."""
        at = milliseconds(front.at)
        for member in front.members:
            known = self._logged.get(member.trial_id)
            if known is None or member.probability is None:
                continue
            figures = {"val_mean": member.mean, "val_low": member.low, "val_high": member.high}
            figures["probability"] = member.probability
            found = [Metric(k, v, at, 0) for k, v in figures.items() if v is not None]
            self._client.log_batch(known.run_id, found)

    def finish(self, status: str, metrics: Mapping[str, float], files: Iterable[str]) -> None:
        """Close the runs: trials that are still open as KILLED, the study's own as ``status``."""
        self.kill_open()
        now = milliseconds(time.time())
        self._client.log_batch(self._parent, [Metric(k, v, now, 0) for k, v in metrics.items()])
        for path in files:
            self._client.log_artifact(self._parent, path)
        self._client.set_terminated(self._parent, status)

    def kill_open(self) -> None:
        """Close the runs of trials that nobody works on any more."""
        for known in self._logged.values():
            if known.status == "RUNNING":
                self._client.set_tag(known.run_id, "status", "interrupted")
                self._client.set_terminated(known.run_id, "KILLED")
                known.status, known.phase = "KILLED", None

    def abandon(self) -> None:
        """The study is gone: close all its runs as KILLED."""
        self.kill_open()
        if self._parent:
            self._client.set_terminated(self._parent, "KILLED")

    def _create(self, trial: TrialState) -> _Logged:
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
        what = trial.params.get("method", "")
        if trial.role == CONFIRM:
            what = f"seed {trial.trial.seed}"
        name = f"{trial.number:03d} {what}".strip()
        run = self._client.create_run(
            self._experiment,
            start_time=milliseconds(trial.started_at),
            tags=tags,
            run_name=name if trial.number >= 0 else trial.role,
        )
        return _Logged(run.info.run_id, phase=trial.phase)

    def _above(self, trial: TrialState) -> str:
        """The run that a trial's run is shown under: the study's; of another seed the first's."""
        of = self._logged.get(str(trial.params.get("of"))) if trial.role == CONFIRM else None
        return of.run_id if of else self._parent

    def _report(self, trial: TrialState, known: _Logged) -> None:
        if known.status != "RUNNING":  # begun, interrupted, and now again
            self._client.update_run(known.run_id, "RUNNING")
            known.status = "RUNNING"
        if known.start != trial.starts:
            known.start, known.reports = trial.starts, 0
        metrics = list(curve(trial, known.reports, self._last_step(trial, known)))
        tags = [] if known.phase == trial.phase else [RunTag("status", trial.phase.value)]
        if trial.phase not in OPEN:
            metrics += final_metrics(trial)
            tags += cause(trial)
        params = [] if known.params else params_of(trial)
        for first in range(_BATCH, len(metrics), _BATCH):
            self._client.log_batch(known.run_id, metrics[first : first + _BATCH])
        if metrics or params or tags:
            self._client.log_batch(known.run_id, metrics[:_BATCH], params, tags)
        known.phase = trial.phase
        known.params, known.reports = True, len(trial.reports)

    def _last_step(self, trial: TrialState, known: _Logged) -> int:
        """The last epoch that an earlier attempt or an earlier tracker left in the run."""
        if known.reports or not known.params or not trial.reports:
            return -1
        histories = (
            self._client.get_metric_history(known.run_id, f"val/{name}")
            for name in trial.reports[0].metrics
        )
        return max((m.step for history in histories for m in history), default=-1)

    def _end(self, trial: TrialState, known: _Logged) -> None:
        if trial.record is not None:
            self._client.log_text(known.run_id, canonical(trial.record), "record.json")
        status = "FAILED" if trial.phase is Phase.FAILED else "FINISHED"
        self._client.set_terminated(known.run_id, status, milliseconds(trial.ended_at))
        known.status, known.ended = status, True

    def _verify(self, trial: TrialState, known: _Logged, found: Verification) -> None:
        at = milliseconds(trial.ended_at)
        values = {f"test/{k}": v for k, v in found.metrics.items()}
        for name in ("latency_ms", "resident_bytes"):
            if (value := getattr(found, name)) is not None:
                values[name] = value
        metrics = [Metric(k, float(v), at, 0) for k, v in values.items()]
        tags = [RunTag("verified", word(found.verified))]
        tags.append(RunTag("problems", "; ".join(found.problems)[:5000]))
        self._client.log_batch(known.run_id, metrics, tags=tags)
        known.verification = found

    def _find_experiment(self) -> str:
        for _ in range(2):
            if found := self._client.get_experiment_by_name(EXPERIMENT):
                return str(found.experiment_id)
            try:
                return str(self._client.create_experiment(EXPERIMENT))
            except MlflowException:
                continue  # another study made it in between, else the search below tells
        raise MlflowException(f"the experiment '{EXPERIMENT}' can neither be found nor made")

    def _close_dead(self) -> None:
        others = self._search(
            f"attributes.status = 'RUNNING' AND tags.`{STUDY}` != '{self._study_id}'"
        )
        runs = list(others)
        living = {r.data.tags[STUDY] for r in runs if TRIAL not in r.data.tags and _lives(r)}
        for run in runs:
            if run.data.tags[STUDY] not in living:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, condition: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], condition, ViewType.ALL, 1000, ["start_time ASC"], token
            )
            yield from page
            token = page.token
            if not token:
                return


def _known(run: Run) -> _Logged:
    ended = run.info.status in ("FINISHED", "FAILED")
    on_front = run.data.tags.get("on_front") == word(True)
    return _Logged(
        run.info.run_id,
        run.info.status,
        params=bool(run.data.params),
        ended=ended,
        on_front=on_front,
    )


def _lives(parent: Run) -> bool:
    alive = process_alive(parent.data.tags.get(OWNER, ""))
    beat = float(parent.data.tags.get(BEAT, 0))
    return time.time() - beat < STALE_SECONDS if alive is None else alive
