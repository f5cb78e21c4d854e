"""When a search has had enough: of time, of money, of waiting. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fronts import hypervolume, non_dominated
from study.config import StudyConfig
from study.events import SEARCH
from study.objectives import Aim, final
from study.sections import Patience
from study.state import Phase, StudyState, TrialState

HOUR = 3600.0


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


@dataclass(frozen=True)
class Limits:
    """What a study may spend. None is no limit.

    ``time`` in seconds of work since the study was opened, what is measured before its first trial
    included; ``accelerator`` in seconds of trials times the GPUs that each has, ``gpus``; ``money``
    at ``price_per_hour`` of work. ``share`` of each is kept for the confirmations that follow the
    search. With ``patience``, ``growth`` is what it looks at.

    The seconds of a trial are its own word, with its latest report or its end: building,
    calibration (with every trial that uses it, though it is made once) and training. What a
    worker did after its last report, when it was lost or out of memory, is not in them; nor is the
    start of a worker, what is measured before the trials, or the verification on test.
    """

    time: float | None = None
    share: float = 0.0
    accelerator: float | None = None
    gpus: float = 0.0
    money: float | None = None
    price_per_hour: float = 0.0
    patience: Patience | None = None
    growth: Growth | None = None

    def over(self, state: StudyState, seconds: float, searching: bool) -> str | None:
        """Why there is to be no further trial, of the search or at all; None if there may be.

        Args:
            state: Of the study.
            seconds: Worked on it so far, earlier processes included.
            searching: Whether a trial of the search is asked for; else a confirmation.
        """
        part = 1.0 - self.share if searching else 1.0
        kept = f"; {self.share:.0%} of it is kept for confirmations" if part < 1 else ""
        for name, spent, budget in self._spent(state, seconds):
            if spent >= part * budget:
                return f"the {name} is spent{kept}"
        if not searching or self.patience is None or self.growth is None:
            return None
        self.growth.look(state)
        return self.growth.over(self.patience)

    def _spent(self, state: StudyState, seconds: float) -> Iterator[tuple[str, float, float]]:
        if self.time is not None:
            yield "time budget", seconds, self.time
        if self.accelerator is not None:
            yield "accelerator budget", state.worked_seconds * self.gpus, self.accelerator
        if self.money is not None:
            yield "money budget", seconds / HOUR * self.price_per_hour, self.money

    @property
    def seconds(self) -> float | None:
        """Of work at most, by time and money together."""
        bounds = [] if self.time is None else [self.time]
        if self.money is not None:
            bounds.append(self.money / self.price_per_hour * HOUR)
        return min(bounds, default=None)


def limits(
    config: StudyConfig,
    aims: Sequence[Aim],
    gpus: float = 0.0,
    met: Callable[[TrialState], bool] = lambda trial: True,
) -> Limits:
    """The limits that a config sets, for trials of so many ``gpus``; ``met`` as of a Growth."""
    return Limits(
        time=config.time_budget,
        share=config.confirm.share if config.confirm else 0.0,
        accelerator=config.accelerator_budget,
        gpus=gpus,
        money=config.money_budget,
        price_per_hour=config.price_per_hour or 0.0,
        patience=config.patience,
        growth=Growth(aims, config.task.chance, met) if config.patience else None,
    )


def budget_remarks(config: StudyConfig) -> list[str]:
    """What is said of budgets without effect."""
    if config.price_per_hour is not None and config.money_budget is None:
        return ["price_per_hour ends nothing without a money_budget"]
    return []
