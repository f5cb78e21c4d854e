"""Asynchronous successive halving on the metric alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from compression.registry import FloatAbove, FloatRange, knob
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler
from study.schedulers.ladders import AtEpochs, rung_epochs, unreachable
from study.schedulers.rankings import ByMetric, Halving


@SCHEDULERS.register("asha")
class Asha(Scheduler):
    """Asynchronous successive halving on the metric alone: deletes the strongly compressed half.

    A trial at a rung goes on if its metric is among the best ceil(n / eta) of the n trials that
    reached it, whatever their size (arXiv 1810.05934). Small models score lower, so it is they that
    are stopped: on digits it left 0.63 of the best hypervolume, no stopping at all 0.97. It is here
    to be compared with, and for studies in which size hardly varies.
    """

    eta: float = knob(2.0, FloatAbove(1.0, 16.0), help="rungs grow by it; one in eta goes on")
    grace: float = knob(
        1 / 3, FloatRange(0.0, 1.0), help="share of the epochs before the first rung"
    )

    def refusals(self, budget: Budget) -> Iterator[str]:
        """See :class:`Scheduler`."""
        yield from unreachable(self.milestones(budget), self.grace, budget)

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return Halving(AtEpochs(self.milestones(budget)), partial(ByMetric, self.eta))

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """First max(1, grace x epochs, min_fidelity), then times eta each, below the budget."""
        return rung_epochs(self.grace, self.eta, budget)
