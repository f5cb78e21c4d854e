"""Asynchronous successive halving for fronts: a trial is judged by all its objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from compression.registry import FloatAbove, FloatRange, Values, knob
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler
from study.schedulers.ladders import (
    AtEpochs,
    AtSeconds,
    Ladder,
    Strata,
    rung_epochs,
    rung_seconds,
    unreachable,
)
from study.schedulers.rankings import ByLayers, ByMetric, ByRegret, Halving
from study.schedulers.reach import Reach

Build = Callable[["ParetoAsha", Ladder, Budget], Rungs]
RULES: dict[str, Build] = {
    "regret": lambda rule, ladder, budget: Halving(ladder, partial(ByRegret, rule.eta)),
    "layers": lambda rule, ladder, budget: Halving(ladder, partial(ByLayers, rule.eta)),
    "strata": lambda rule, ladder, budget: Halving(
        Strata(ladder, rule.stratum), partial(ByMetric, rule.eta)
    ),
    "reach": lambda rule, ladder, budget: Reach(ladder, budget, rule.quantile),
}


@SCHEDULERS.register("pareto_asha")
class ParetoAsha(Scheduler):
    """Asynchronous successive halving that keeps the front: ranked by metric, size and the rest.

    A trial at a rung goes on if it is among the best ceil(n / eta) of the n trials that reached
    it. What is best says ``rule``. ``regret``: how far its metric is from the rung's front at its
    size; no member of the front is stopped. ``layers``: non-dominated sorting, then crowding
    distance (arXiv 2106.12639, Deb et al. 2002). ``strata``: the metric, among trials of like
    ratio. ``reach`` compares with no quota: it stops a trial if the metric now plus what finished
    trials gained from there on is dominated by what stands. Rungs are epochs (arXiv 1810.05934);
    with ``seconds`` they are that cost, whatever the number of epochs.
    """

    rule: str = knob("regret", Values(tuple(RULES)), help="what makes a trial better")
    eta: float = knob(3.0, FloatAbove(1.0, 16.0), help="rungs grow by it; one in eta goes on")
    grace: float = knob(
        0.05, FloatRange(0.0, 1.0), help="share of the epochs before the first rung"
    )
    seconds: float = knob(
        0.0, FloatRange(0.0, 1e9), help="of a full trial, to set rungs by cost; 0: by epochs"
    )
    stratum: float = knob(
        0.5,
        FloatRange(0.05, 64.0),
        when={"rule": ("strata",)},
        help="width of a stratum, in doublings of the ratio",
    )
    quantile: float = knob(
        1.0,
        FloatRange(0.0, 1.0),
        when={"rule": ("reach",)},
        help="of the gains seen, what a trial may still hope for; 1: the largest",
    )

    def refusals(self, budget: Budget) -> Iterator[str]:
        """See :class:`Scheduler`."""
        yield from unreachable(self.milestones(budget), self.grace, budget)

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return RULES[self.rule](self, self._ladder(budget), budget)

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Epochs of the rungs; with rungs by cost every epoch: a trial may cross one in any."""
        if not self.seconds:
            return rung_epochs(self.grace, self.eta, budget)
        return tuple(budget.room) if self._costs(budget) else ()

    def _ladder(self, budget: Budget) -> Ladder:
        if self.seconds:
            return AtSeconds(self._costs(budget), budget.room)
        return AtEpochs(self.milestones(budget))

    def _costs(self, budget: Budget) -> tuple[float, ...]:
        return rung_seconds(self.grace, self.eta, self.seconds, budget)
