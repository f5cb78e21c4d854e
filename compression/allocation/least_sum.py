"""The least sum of costs within a budget of bytes: the multiple-choice knapsack, solved exactly.

A dynamic programme over groups whose states are (bytes, cost) of the groups so far. Kept are those
that no other state beats in both, and whose bound - their cost and the linear relaxation of the
groups to come - is below the best solution known. Every state, rounded down, is such a solution.
Dominance and the bound as in Pisinger, A minimal algorithm for the multiple-choice knapsack
problem, European Journal of Operational Research 83 (1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compression.allocation.relaxation import Relaxation
from compression.allocation.solution import Floats, Ints, Problem, Solution, undominated

MOST_STATES = 10_000
"""Kept after a group; of more the most promising, and the gap says what that may cost."""


@dataclass(frozen=True)
class Layer:
    """The states after a group: their sizes and costs, which state each came from and by what."""

    sizes: Ints
    costs: Floats
    parents: Ints
    choices: Ints


def least_sum(problem: Problem, most_states: int = MOST_STATES) -> Solution | None:
    """``min sum_l cost[l, k_l]`` subject to ``sum_l size[l, k_l] <= budget``.

    Exact, up to the rounding of float64 sums, with ``gap`` 0; where more than ``most_states`` would
    have to be kept, within the ``gap`` that is given. None where nothing fits.
    """
    kept = [undominated(c, s) for c, s in zip(problem.costs, problem.sizes, strict=True)]
    if sum(int(s[k[0]]) for s, k in zip(problem.sizes, kept, strict=True)) > problem.budget:
        return None
    # Groups with most to choose first: the bound is tightest where little is left open.
    spread = [int(s[k[-1]] - s[k[0]]) for s, k in zip(problem.sizes, kept, strict=True)]
    order = sorted(range(len(kept)), key=lambda group: -spread[group])
    search = _Search(problem, kept, order, most_states)
    choices = search.run()
    found = [0] * len(order)
    for group, choice in zip(order, choices, strict=True):
        found[group] = int(kept[group][choice])
    value = sum(problem.of_choices(found))
    return Solution(tuple(found), value, problem.total(found), search.gap(value))


class _Search:
    """See :func:`least_sum`; choices count among the undominated ones, groups in its order."""

    def __init__(
        self, problem: Problem, kept: list[Ints], order: list[int], most_states: int
    ) -> None:
        self.costs = [problem.costs[group][kept[group]] for group in order]
        self.sizes = [problem.sizes[group][kept[group]] for group in order]
        self.budget, self.most_states = problem.budget, most_states
        self.relaxed = Relaxation(self.costs, self.sizes)
        self.layers: list[Layer] = []
        self.best, self.choices = np.inf, list[int]()
        self._lost = np.inf  # the least bound among states that were dropped for their number

    def run(self) -> list[int]:
        """The choice of each group."""
        none, start = np.zeros(1, np.int64), np.zeros(1)
        layer = Layer(none, start, none, none)
        self._round_down(layer, 0)
        for depth in range(len(self.costs)):
            layer = self._expanded(layer, depth)
            if not len(layer.sizes):
                break
            self.layers.append(layer)
            self._round_down(layer, depth + 1)
        return self.choices

    def gap(self, value: float) -> float:
        """By how much a solution may be above the least sum."""
        return float(max(0.0, value - self._lost)) if np.isfinite(self._lost) else 0.0

    def _expanded(self, layer: Layer, depth: int) -> Layer:
        """Each state with each choice of the next group, less what cannot lead to the best."""
        sizes = layer.sizes[:, None] + self.sizes[depth]
        costs = layer.costs[:, None] + self.costs[depth]
        left = self.budget - sizes
        bounds = costs + self.relaxed.least_cost(depth + 1, left)
        parents, choices = np.nonzero((left >= 0) & (bounds < self.best))
        flat = sizes[parents, choices], costs[parents, choices]
        keep = undominated(flat[1], flat[0])
        if len(keep) > self.most_states:
            promise = bounds[parents, choices][keep]
            order = np.argpartition(promise, self.most_states)
            self._lost = min(self._lost, float(promise[order[self.most_states]]))
            keep = keep[np.sort(order[: self.most_states])]
        return Layer(flat[0][keep], flat[1][keep], parents[keep], choices[keep])

    def _round_down(self, layer: Layer, depth: int) -> None:
        """Complete each state by the whole steps of the relaxation; remember the best."""
        steps = self.relaxed.whole_steps(depth, self.budget - layer.sizes)
        totals = layer.costs + self.relaxed.cost_after(depth, steps)
        state = int(np.argmin(totals))
        if totals[state] < self.best:
            self.best = float(totals[state])
            ahead = self.relaxed.choices_after(depth, int(steps[state]))
            self.choices = self._behind(state, depth) + ahead

    def _behind(self, state: int, depth: int) -> list[int]:
        """The choices that led to a state after ``depth`` groups."""
        found = []
        for layer in reversed(self.layers[:depth]):
            found.append(int(layer.choices[state]))
            state = int(layer.parents[state])
        return found[::-1]
