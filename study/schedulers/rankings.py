"""Who is among the best of a rung: by the metric, by layers of non-domination, by regret."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.fronts import ranks
from study.schedulers.base import Rungs, Standing
from study.schedulers.ladders import Ladder

Floats = NDArray[np.float64]


class Table:
    """Numbers by trial, in an array that grows: a column for each trial.

    Comparing long rows is ten times as fast as comparing many short ones.
    """

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._array: Floats = np.empty((0, 0))

    def put(self, trial: str, values: Sequence[float]) -> int:
        """Keep a trial's values, in place of earlier ones of its own; the number of its column."""
        index = self._index.setdefault(trial, len(self._index))
        if index >= self._array.shape[1]:
            grown = np.empty((len(values), 2 * index + 16))
            if index:
                grown[:, :index] = self._array
            self._array = grown
        self._array[:, index] = values
        return index

    def __contains__(self, trial: object) -> bool:
        return trial in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def columns(self) -> Floats:
        """(m, n), a view."""
        return self._array[:, : len(self._index)]


class Ranking(ABC):
    """The trials of one rung. ``eta``: one in so many goes on."""

    def __init__(self, eta: float) -> None:
        self.eta, self.table = eta, Table()

    @abstractmethod
    def place(self, trial: str, losses: tuple[float, ...]) -> bool:
        """Whether it is among the best ceil(n / eta) of those here, itself included.

        Ties with the last that goes on go on too.
        """

    @property
    def keep(self) -> int:
        """How many go on."""
        return math.ceil(len(self.table) / self.eta)


class ByMetric(Ranking):
    """By the primary metric alone."""

    def place(self, trial: str, losses: tuple[float, ...]) -> bool:
        """See :class:`Ranking`."""
        index = self.table.put(trial, losses[:1])
        metric = self.table.columns[0]
        return _count(metric < metric[index]) < self.keep


class ByLayers(Ranking):
    """By layers of non-domination, and by :func:`crowding` within a layer."""

    def place(self, trial: str, losses: tuple[float, ...]) -> bool:
        """See :class:`Ranking`."""
        index, keep = self.table.put(trial, losses), self.keep
        rows = self.table.columns.T
        no_worse, no_better = all_below(rows, rows[index]), all_below(-rows, -rows[index])
        if _count(no_worse & ~no_better) >= keep:  # each of these is in a better layer
            return False
        # What it dominates is in layers below its own, and has no say in those above.
        matter = no_worse | ~no_better
        rows, index = rows[matter], _count(matter[:index])
        layers = ranks(rows)
        above, peers = _count(layers < layers[index]), layers == layers[index]
        if above >= keep or above + _count(peers) <= keep:
            return above < keep
        spread = crowding(rows[peers])
        return above + _count(spread > spread[_count(peers[:index])]) < keep


class ByRegret(Ranking):
    """By how far the metric would have to rise for the trial to be on the rung's front.

    regret(x) = metric loss of x - the least metric loss among those that are no worse than x in
    every other objective. It is 0 on the front, so that no member of it is stopped, and carries no
    scale: all regrets of a rung are in the metric's unit.
    """

    def __init__(self, eta: float) -> None:
        super().__init__(eta)
        self._least: Floats = np.empty(0)

    def place(self, trial: str, losses: tuple[float, ...]) -> bool:
        """See :class:`Ranking`."""
        known = trial in self.table
        index = self.table.put(trial, losses)
        self._take(range(len(self.table)) if known else [index])
        metric = self.table.columns[0]
        regret = metric - self._least[: len(metric)]
        return _count(regret < regret[index]) < self.keep

    def _take(self, indices: Sequence[int]) -> None:
        """Bring the least losses up to date after these columns are new or may be others."""
        metric, others = self.table.columns[0], self.table.columns[1:].T
        if len(metric) > len(self._least):
            self._least = np.concatenate([self._least, np.empty(len(metric) + 16)])
        for index in indices:
            self._least[index] = metric[all_below(others, others[index])].min()
        if len(indices) == 1:
            (index,) = indices
            covered = all_below(-others, -others[index])
            least = self._least[: len(metric)]
            least[covered] = np.minimum(least[covered], metric[index])


class Halving(Rungs):
    """A ranking at each rung of a ladder."""

    def __init__(self, ladder: Ladder, ranking: Callable[[], Ranking]) -> None:
        self.ladder = ladder
        self._rankings: dict[Hashable, Ranking] = defaultdict(ranking)

    def on_report(self, trial: str, at: Standing) -> bool:
        """See :class:`Rungs`."""
        rung = self.ladder.rung(trial, at)
        return rung is None or self._rankings[rung].place(trial, at.losses)


def crowding(layer: Floats) -> Floats:
    """How much room a point has among the others of its layer: more is better.

    Sum over objectives of (next greater value - next smaller value) / range of the layer; infinite
    at either end of an objective; an objective that is constant has no say. Equal points share one
    value, so that it depends neither on order nor on repeats. It is chosen before the epsilon-net
    order of arXiv 2106.12639, which depends on the point that it begins with.

    Args:
        layer: (k, m), points of which none dominates another.

    Returns:
        (k,).

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II".
    """
    room = np.zeros(len(layer))
    for column in layer.T:
        values = np.unique(column)
        if len(values) > 1:
            gaps = np.full(len(values), np.inf)
            gaps[1:-1] = (values[2:] - values[:-2]) / (values[-1] - values[0])
            room += gaps[np.searchsorted(values, column)]
    return room


def all_below(points: Floats, point: Floats) -> NDArray[np.bool_]:
    """Which points (n, m) are no worse than one in any of its m losses."""
    below = np.ones(len(points), dtype=np.bool_)
    for i, loss in enumerate(point):
        below &= points[:, i] <= loss
    return below


def _count(mask: NDArray[Any]) -> int:
    return int(np.count_nonzero(mask))
