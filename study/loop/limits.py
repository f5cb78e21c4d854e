"""When a search has had enough: of time, of money, of waiting. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from study.config import StudyConfig
from study.fields.sections import Patience
from study.growth import Growth
from study.objectives import Aim
from study.state import StudyState, TrialState

HOUR = 3600.0


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
