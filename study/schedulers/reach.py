"""Stop only what cannot reach the front even if it gains as much as any trial before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from analysis.fronts import non_dominated
from study.schedulers.base import Budget, Rungs, Standing
from study.schedulers.ladders import Ladder
from study.schedulers.rankings import Floats, Table


class Front:
    """The non-dominated of all that was added."""

    def __init__(self, points: Sequence[tuple[float, ...]] = ()) -> None:
        self._members: Floats = np.array(points)
        if points:
            self._members = self._members[non_dominated(self._members)]

    def add(self, point: tuple[float, ...]) -> None:
        """Take a point in, unless one that is there is no worse in anything."""
        row = np.array(point)
        if not len(self._members):
            self._members = row[None]
        elif not (self._members <= row).all(axis=1).any():
            beaten = (self._members >= row).all(axis=1)
            self._members = np.vstack([self._members[~beaten], row])

    def dominates(self, point: tuple[float, ...]) -> bool:
        """Whether some member is no worse than the point in anything, and better in something."""
        if not len(self._members):
            return False
        row = np.array(point)
        no_worse = (self._members <= row).all(axis=1)
        return bool((no_worse & (self._members < row).any(axis=1)).any())


class Reach(Rungs):
    """Bounds by what finished trials gained after the rung.

    A trial goes on while (metric loss now - gain, its other losses) is dominated by nothing that
    was reported so far, by itself too; gain is the ``quantile`` of what finished trials gained from
    this rung to their best later epoch. While none has finished, everything goes on.
    """

    def __init__(self, ladder: Ladder, budget: Budget, quantile: float) -> None:
        self.ladder, self.budget, self.quantile = ladder, budget, quantile
        self._front = Front()
        self._gains: dict[Hashable, Table] = defaultdict(Table)
        self._curves: dict[str, dict[int, tuple[float, ...]]] = defaultdict(dict)
        self._passed: dict[str, dict[Hashable, int]] = defaultdict(dict)

    def on_report(self, trial: str, at: Standing) -> bool:
        """See :class:`Rungs`."""
        if max(self._curves[trial], default=0) > at.epochs_done:
            self._forget(trial)
        self._curves[trial][at.epochs_done] = at.losses
        if self._stands(at.epochs_done):
            self._front.add(at.losses)
        if at.epochs_done >= self.budget.epochs:
            self._learn(trial)
            return True
        rung = self.ladder.rung(trial, at)
        if rung is None:
            return True
        self._passed[trial][rung] = at.epochs_done
        metric, *others = at.losses
        return not self._front.dominates((metric - self._gain(rung), *others))

    def _stands(self, epochs_done: int) -> bool:
        """Whether a trial has its final form by then, so that its file would ship."""
        return epochs_done >= self.budget.min_fidelity

    def _forget(self, trial: str) -> None:
        """It starts again: what it came to before is lost, and must not tell against it."""
        self._curves[trial], self._passed[trial] = {}, {}
        curves = self._curves.values()
        self._front = Front([p for curve in curves for e, p in curve.items() if self._stands(e)])

    def _gain(self, rung: Hashable) -> float:
        """The gain that a trial at this rung may still hope for."""
        if rung not in self._gains:
            return float("inf")
        seen = self._gains[rung].columns[0]
        return float(np.quantile(seen, self.quantile, method="higher"))

    def _learn(self, trial: str) -> None:
        curve = self._curves[trial]
        for rung, epoch in self._passed[trial].items():
            best = min(losses[0] for later, losses in curve.items() if later >= epoch)
            self._gains[rung].put(trial, (curve[epoch][0] - best,))
