"""What a scheduler is: a rule that ends trials early. Pure: no Ray, no clock, no files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from compression.registry import Plugin, Registry


@dataclass(frozen=True)
class Budget:
    """Epochs of a full trial, and the epoch before which nothing may be stopped."""

    epochs: int
    min_fidelity: int = 0


class Rungs(ABC):
    """The state of one scheduler in one study, rebuilt by replaying its reports."""

    @abstractmethod
    def on_report(self, trial: str, epochs_done: int, metric: float, log2_ratio: float) -> bool:
        """Take a report and say whether the trial may go on.

        ``metric`` is the current one, turned so that larger is better. Reporting the same thing
        twice changes nothing, so that an interrupted trial can start again.
        """


class Scheduler(Plugin, ABC):
    """A stopping rule."""

    @abstractmethod
    def start(self, budget: Budget) -> Rungs:
        """An empty state."""

    @abstractmethod
    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Epochs at which a trial may be stopped, ascending, the full budget left out."""


SCHEDULERS: Registry[Scheduler] = Registry("scheduler", Scheduler)
