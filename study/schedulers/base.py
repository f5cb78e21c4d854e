"""What a scheduler is: a rule that ends trials early. Pure: no Ray, no clock, no files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from compression.registry import Plugin, Registry


@dataclass(frozen=True)
class Budget:
    """Epochs of a full trial, and the epoch before which nothing may be stopped."""

    epochs: int
    min_fidelity: int = 0


@dataclass(frozen=True)
class Standing:
    """A trial at a report.

    ``losses`` are its objectives turned so that smaller is better: the primary metric as it is now
    (not the best so far), minus log2 of the ratio, then any other. ``seconds`` is what it cost up
    to here.
    """

    epochs_done: int
    losses: tuple[float, ...]
    seconds: float = 0.0


class Rungs(ABC):
    """The state of one scheduler in one study, rebuilt by replaying its reports."""

    @abstractmethod
    def on_report(self, trial: str, at: Standing) -> bool:
        """Take a report and say whether the trial may go on.

        Reporting the same thing twice changes nothing, so that an interrupted trial can start
        again. What is kept does not depend on the order of the reports of different trials.
        """


class Scheduler(Plugin, ABC):
    """A stopping rule."""

    def refusals(self, budget: Budget) -> Iterator[str]:
        """Why it cannot work with this budget: a sentence each. By default it can."""
        yield from ()

    @abstractmethod
    def start(self, budget: Budget) -> Rungs:
        """An empty state."""

    @abstractmethod
    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Epochs at which a trial may be stopped, ascending, the full budget left out."""


SCHEDULERS: Registry[Scheduler] = Registry("scheduler", Scheduler)
