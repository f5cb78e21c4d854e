"""Asynchronous hyperband: successive halving with several first rungs side by side."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from functools import partial
from itertools import accumulate

from compression.registry import FloatAbove, FloatRange, knob
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing
from study.schedulers.ladders import rung_epochs, unreachable
from study.schedulers.rankings import ByMetric, Halving


class Brackets:
    """Bracket b leaves the first b of the rungs out; the last one has none.

    Brackets are to cost alike, so a bracket of s rungs gets eta^s / (s + 1) parts of the trials.
    Which one a trial is in is read off a hash of its id: a study that resumes finds it again.
    """

    def __init__(self, milestones: tuple[int, ...], eta: float) -> None:
        self.milestones = milestones
        rungs = range(len(milestones), -1, -1)
        self._bounds = list(accumulate(eta**s / (s + 1) for s in rungs))

    def bracket(self, trial: str) -> int:
        """The bracket of a trial, from 0."""
        drawn = int.from_bytes(hashlib.sha256(trial.encode()).digest()[:6], "big") / 2**48
        return bisect_right(self._bounds, drawn * self._bounds[-1])

    def rung(self, trial: str, at: Standing) -> Hashable | None:
        """See :class:`study.schedulers.ladders.Ladder`."""
        bracket = self.bracket(trial)
        return (bracket, at.epochs_done) if at.epochs_done in self.milestones[bracket:] else None


@SCHEDULERS.register("hyperband")
class Hyperband(Scheduler):
    """Asynchronous hyperband on the metric alone: hedges the first rung, not the size.

    Successive halving in brackets that differ in their first rung; a trial is ranked within its
    own (arXiv 1603.06560, asynchronous as in 1810.05934). Like asha it deletes the strongly
    compressed half, and is here to be compared with.
    """

    eta: float = knob(3.0, FloatAbove(1.0, 16.0), help="rungs grow by it; one in eta goes on")
    grace: float = knob(
        0.0, FloatRange(0.0, 1.0), help="share of the epochs before the first bracket's first rung"
    )

    def refusals(self, budget: Budget) -> Iterator[str]:
        """See :class:`Scheduler`."""
        yield from unreachable(self.milestones(budget), self.grace, budget)

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return Halving(Brackets(self.milestones(budget), self.eta), partial(ByMetric, self.eta))

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """Those of the first bracket: max(1, grace x epochs, min_fidelity), times eta each."""
        return rung_epochs(self.grace, self.eta, budget)
