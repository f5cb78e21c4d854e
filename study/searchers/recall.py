"""Which of very many trials a sampler reads: all that is good, and some of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from analysis.fronts import ranks

_READ = (TrialState.COMPLETE, TrialState.PRUNED)


class Recall:
    """At most ``size`` of the trials that ended: non-dominated layers first, then a sample.

    Layers are taken whole, the front first, while they fit in half of ``size``; after all of these
    come trials that break a constraint, the least broken first. The layer that does not fit fills
    this half with a sample of it; the other half is a sample of all that is left, so that the
    sampler sees what is bad too. ``signs`` turn values into losses.
    """

    def __init__(self, size: int, signs: Sequence[float]) -> None:
        self._size, self._signs = size, tuple(signs)
        self._trials: list[FrozenTrial] = []
        # A row a trial, some rows to spare: how much it breaks constraints, then its losses (NaN
        # if it has no values).
        self._rows = np.full((size, 1 + len(self._signs)), np.nan)

    def add(self, trial: FrozenTrial) -> None:
        """A trial ended. What failed is never read."""
        if trial.state not in _READ:
            return
        if len(self._trials) == len(self._rows):
            self._rows = np.concatenate([self._rows, np.full_like(self._rows, np.nan)])
        row = self._rows[len(self._trials)]
        row[0] = sum(max(0.0, v) for v in trial.constraints.values())
        if trial.values:
            row[1:] = np.multiply(self._signs, trial.values)
        self._trials.append(trial)

    def choose(self, seed: int) -> list[FrozenTrial]:
        """The trials to be read; of samples another for each seed."""
        if len(self._trials) <= self._size:
            return list(self._trials)
        random = np.random.default_rng(seed)
        order = random.permutation(len(self._trials))
        # Stable: within a layer the order is random.
        order = order[np.argsort(self._layers()[order], kind="stable")]
        good = self._size // 2
        rest = random.choice(order[good:], self._size - good, replace=False)
        return [self._trials[i] for i in (*order[:good], *rest)]

    def _layers(self) -> NDArray[np.int64]:
        """The layer of each trial, shape (n,): those without values are in none and come last."""
        count = len(self._trials)
        layers = np.full(count, count, dtype=np.int64)
        violations, losses = self._rows[:count, 0], self._rows[:count, 1:]
        valued = ~np.isnan(losses).any(axis=1)
        kept, broken = valued & (violations == 0), valued & (violations > 0)
        fronts = ranks(losses[kept])
        layers[kept] = fronts
        steps = np.unique(violations[broken], return_inverse=True)[1]
        layers[broken] = 1 + fronts.max(initial=-1) + steps
        return layers
