"""Which trial runs on which of Tune's workers; every question is answered without a look at all."""

from __future__ import annotations

from collections import Counter

from study.trial_state import TrialState


class AtWork:
    """The running trials by Tune's own ids."""

    def __init__(self) -> None:
        self._trials: dict[str, TrialState] = {}
        self._ids: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()
        self._alone: set[str] = set()

    def begin(self, tune_id: str, trial: TrialState) -> None:
        """A worker takes it up."""
        self._trials[tune_id] = trial
        self._ids[trial.trial_id] += 1
        self._roles[trial.role] += 1
        if trial.alone:
            self._alone.add(tune_id)

    def end(self, tune_id: str) -> TrialState:
        """It no longer runs there."""
        trial = self._trials.pop(tune_id)
        self._roles[trial.role] -= 1
        self._alone.discard(tune_id)
        self._ids[trial.trial_id] -= 1
        if not self._ids[trial.trial_id]:
            del self._ids[trial.trial_id]
        return trial

    def get(self, tune_id: str) -> TrialState | None:
        """The trial of a worker."""
        return self._trials.get(tune_id)

    def has(self, trial_id: str) -> bool:
        """Whether the same trial is being run."""
        return trial_id in self._ids

    def any_of(self, role: str) -> bool:
        """Whether a trial of this role is."""
        return self._roles[role] > 0

    @property
    def crowded(self) -> bool:
        """Whether a trial that runs wants no company."""
        return bool(self._alone)

    def __len__(self) -> int:
        """Trials that run."""
        return len(self._trials)
