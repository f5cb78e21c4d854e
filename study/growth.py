"""How the front of a study grew, trial by trial. Pure: no clock, no files; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.fronts import hypervolume, non_dominated
from study.events import SEARCH
from study.objectives import Aim, final
from study.state import Phase, StudyState, TrialState

if TYPE_CHECKING:
    from study.fields.sections import Patience


class Growth:
    """The hypervolume of a study's front after each trial of its search that ended.

    Axes are the first two objectives, the primary metric and log2 of the ratio. A view of the
    state: it looks at each trial once.

    Args:
        aims: As :func:`study.objectives.aims` gives them.
        chance: The primary metric of a model that knows nothing; with ratio 1 the reference.
        met: Whether a trial meets the study's constraints; what does not is no part of the front.
    """

    def __init__(
        self,
        aims: Sequence[Aim],
        chance: float,
        met: Callable[[TrialState], bool] = lambda trial: True,
    ) -> None:
        self._aims, self._met = aims[:2], met
        self._reference = (aims[0].objective.loss(chance), 0.0)
        self._front = np.empty((0, 2))
        self._seen = 0
        self.start = 0.0
        self.volumes: list[float] = []

    def look(self, state: StudyState) -> None:
        """Take in the trials that ended since the last look."""
        for trial in state.finished[self._seen :]:
            self._seen += 1
            if trial.role != SEARCH:
                continue
            volume = self._grown(trial)
            if trial.phase is Phase.INHERITED:  # before this search's first
                self.start = volume
            else:
                self.volumes.append(volume)

    def _grown(self, trial: TrialState) -> float:
        now = self.volumes[-1] if self.volumes else self.start
        outcome = trial.record.outcome if trial.record else None
        losses = final(self._aims, outcome) if outcome and outcome.sha256 else None
        if losses is None or (self._front <= losses).all(axis=1).any() or not self._met(trial):
            return now
        front = np.vstack([self._front, losses])
        self._front = front[non_dominated(front)]
        return hypervolume(self._front, self._reference)

    def over(self, patience: Patience) -> str | None:
        """Why to wait no longer; None if there is growth, or too little was found to tell.

        Before the first point of a front nothing can grow: then no trial is one too many.
        """
        if len(self.volumes) < patience.trials or not self.volumes[-1]:
            return None
        before, now = ([self.start, *self.volumes][i] for i in (-1 - patience.trials, -1))
        if now > before * (1 + patience.gain):
            return None
        return (
            f"the front's hypervolume grew from {before:.4g} to {now:.4g} in the last "
            f"{patience.trials} trials, by less than {100 * patience.gain:.3g}%"
        )
