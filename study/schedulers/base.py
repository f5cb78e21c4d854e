"""What a scheduler is: a rule that ends trials early. Pure: no Ray, no clock, no files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from compression.registry import Plugin, Registry


@dataclass(frozen=True)
class Budget:
    """Epochs of a full trial, and the epoch before which nothing may be stopped."""

    epochs: int
    min_fidelity: int = 0

    @property
    def room(self) -> range:
        """Epochs at which a trial may be stopped at all; the full budget is none of them."""
        return range(max(1, self.min_fidelity), self.epochs)


@dataclass(frozen=True)
class Standing:
    """A trial at a report.

    ``losses`` are its objectives turned so that smaller is better: the primary metric as it is now
    (not the best so far), minus log2 of the ratio, then any other. ``seconds`` is what it cost up
    to here.

    Raises:
        ValueError: a loss that is not finite: it compares with nothing.
    """

    epochs_done: int
    losses: tuple[float, ...]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Finite numbers only."""
        if not all(map(math.isfinite, self.losses)):
            raise ValueError(f"losses after epoch {self.epochs_done} not finite: {self.losses}")


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

    def notes(self, budget: Budget) -> Iterator[str]:
        """What is not wrong, but may surprise: a sentence each.

        A recipe that lets nothing be stopped before its end is a study's good right.
        """
        if budget.epochs == 1:
            yield f"{self.name} stops nothing early: a trial has one epoch"
        elif not budget.room:
            yield (
                f"{self.name} stops nothing early: recipe, adapters or hooks of this space need "
                f"{budget.min_fidelity} of {budget.epochs} epochs"
            )

    @abstractmethod
    def start(self, budget: Budget) -> Rungs:
        """An empty state."""

    @abstractmethod
    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Epochs at which a trial may be stopped, ascending, the full budget left out."""


SCHEDULERS: Registry[Scheduler] = Registry("scheduler", Scheduler)
