"""The median stopping rule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from compression.registry import FloatRange, IntRange, knob
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing
from study.schedulers.ladders import first_epoch, unreachable
from study.schedulers.rankings import Table


@SCHEDULERS.register("median")
class Median(Scheduler):
    """Stop what was never as good as the median of the others' means: on the metric alone.

    A trial at epoch e ends if its best metric up to e is worse than the median, over the other
    trials that got to e, of their mean metric up to e (Golovin et al. 2017, "Google Vizier").
    Sizes are not looked at: it deletes strongly compressed trials, and is here to be compared with.
    It asks at every epoch after ``grace``, where a trial also puts its file away.
    """

    grace: float = knob(
        1 / 3, FloatRange(0.0, 1.0), help="share of the epochs before which nothing is stopped"
    )
    least: int = knob(5, IntRange(1, 10_000), help="other trials that there must be at an epoch")

    def refusals(self, budget: Budget) -> Iterator[str]:
        """See :class:`Scheduler`."""
        yield from unreachable(self.milestones(budget), self.grace, budget)

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return MedianRungs(self.milestones(budget), self.least)

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Every epoch from max(1, grace x epochs, min_fidelity) on, below the budget."""
        return tuple(range(first_epoch(self.grace, budget), budget.epochs))


class MedianRungs(Rungs):
    """Curves by trial, and their running means by epoch."""

    def __init__(self, milestones: tuple[int, ...], least: int) -> None:
        self.milestones, self.least = milestones, least
        self._curves: dict[str, dict[int, float]] = defaultdict(dict)
        self._means: dict[int, Table] = defaultdict(Table)

    def on_report(self, trial: str, at: Standing) -> bool:
        """See :class:`Rungs`."""
        curve = self._curves[trial]
        curve[at.epochs_done] = at.losses[0]
        if at.epochs_done not in self.milestones:
            return True
        so_far = [loss for epoch, loss in curve.items() if epoch <= at.epochs_done]
        means = self._means[at.epochs_done]
        index = means.put(trial, (math.fsum(so_far) / len(so_far),))
        others = np.delete(means.columns[0], index)
        return len(others) < self.least or min(so_far) <= float(np.median(others))
