"""Asynchronous successive halving within strata of like size."""

from __future__ import annotations

import math
from collections import defaultdict

from compression.registry import FloatRange, knob
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing


@SCHEDULERS.register("asha")
class Asha(Scheduler):
    """Asynchronous successive halving, ranked within strata of like size (arXiv 1810.05934).

    A trial at rung k goes on if its metric is among the best ceil(n / eta) of the n trials of its
    stratum that reached the rung. A stratum is a band of compression ratios, ``stratum`` wide in
    log2: ranked across sizes, halving on accuracy deletes the strongly compressed half of the
    front (on digits it left 0.63 of the best hypervolume).
    """

    eta: float = knob(2.0, FloatRange(1.01, 16.0), help="one in eta goes on at each rung")
    grace: float = knob(
        1 / 3, FloatRange(0.0, 1.0), help="share of the epochs before the first rung"
    )
    stratum: float = knob(
        0.5, FloatRange(0.05, 64.0), help="width of a stratum, in doublings of the ratio"
    )

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return AshaRungs(self, self.milestones(budget))

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """First max(1, grace x epochs, min_fidelity), then times eta each, below the budget."""
        first = max(1, math.ceil(self.grace * budget.epochs), budget.min_fidelity)
        rungs: list[int] = []
        epoch = float(first)
        while round(epoch) < budget.epochs:
            if not rungs or round(epoch) > rungs[-1]:
                rungs.append(round(epoch))
            epoch *= self.eta
        return tuple(rungs)


class AshaRungs(Rungs):
    """Metrics by (rung, stratum) and trial."""

    def __init__(self, rule: Asha, milestones: tuple[int, ...]) -> None:
        self.rule, self.milestones = rule, milestones
        self.reached: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)

    def on_report(self, trial: str, at: Standing) -> bool:
        """See :class:`Rungs`. Ties with the last that goes on go on too."""
        if at.epochs_done not in self.milestones:
            return True
        loss, size = at.losses[:2]
        here = self.reached[at.epochs_done, math.floor(-size / self.rule.stratum)]
        here[trial] = loss
        keep = math.ceil(len(here) / self.rule.eta)
        return sum(other < loss for other in here.values()) < keep
