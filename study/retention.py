"""Which artifacts are kept: those of the front, of what is near it, and of the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from study.events import SEARCH, Answered, Ended, Event
from study.state import StudyState, TrialState
from study.storage import Storage
from trainables.record import Objective

FOLDER = "artifacts"


def artifact(trial_id: str) -> str:
    """Name of a trial's file in the study's folder."""
    return f"{FOLDER}/{trial_id}.safetensors"


def probe(trial_id: str) -> str:
    """Name of the file that holds its logits on the fixed validation batch."""
    return f"{FOLDER}/{trial_id}.probe.safetensors"


class Retention:
    """Deletes an artifact as soon as a trial that ends makes it useless.

    A trial is useless when another of at least its ratio is better by more than ``margin`` in the
    primary metric (points of a fraction, else a share of the better one's value). Trials that end
    later can only make it more so: what goes is never wanted again.
    """

    def __init__(
        self, storage: Storage, state: StudyState, objective: Objective, margin: float
    ) -> None:
        self.storage, self.objective, self.margin = storage, objective, margin
        self.kept: dict[str, tuple[float, float]] = {}
        self._state = state
        for trial in state.searched:
            self._take(trial)

    def put(self, event: Event) -> None:
        """See :class:`study.driver.View`."""
        if isinstance(event, Ended | Answered):
            self._take(self._state.trials[event.number])

    def _take(self, trial: TrialState) -> None:
        record = trial.record
        if trial.role != SEARCH or record is None or record.outcome.size is None:
            return
        if record.outcome.sha256 is None:
            return
        self.admit(
            trial.trial_id,
            (record.outcome.metrics["val"][self.objective.name], record.outcome.size.ratio),
        )

    def admit(self, trial_id: str, point: tuple[float, float]) -> None:
        """Keep the files of a (metric, ratio) if they are of use, and delete those no longer so."""
        if any(self._useless(point, other) for other in self.kept.values()):
            self._drop([trial_id])
            return
        self._drop([i for i, other in self.kept.items() if self._useless(other, point)])
        self.kept[trial_id] = point

    def _useless(self, point: tuple[float, float], other: tuple[float, float]) -> bool:
        loss, better = self.objective.loss(point[0]), self.objective.loss(other[0])
        allowed = self.objective.allowance(self.margin, other[0])
        return other[1] >= point[1] and loss > better + allowed

    def _drop(self, trial_ids: Sequence[str]) -> None:
        baselines = {trial.trial_id for n, trial in self._state.trials.items() if n < 0}
        for trial_id in trial_ids:
            self.kept.pop(trial_id, None)
            if trial_id in baselines:
                continue
            self.storage.delete(artifact(trial_id))
            self.storage.delete(probe(trial_id))
