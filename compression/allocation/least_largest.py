"""The least largest cost within a budget of bytes."""

from __future__ import annotations

import numpy as np

from compression.allocation.solution import Problem, Solution


def least_largest(problem: Problem) -> Solution | None:
    """``min max_l cost[l, k_l]`` subject to ``sum_l size[l, k_l] <= budget``, exactly.

    By bisection over the sorted costs: a bound t can be kept exactly if the sum of each group's
    least size among its costs ``<= t`` fits. Of these each group takes the one of least size, then
    of least cost. None where nothing fits. O(G K log(G K)) for G groups of K choices.
    """
    levels = np.unique(np.concatenate(problem.costs))
    low, high = 0, len(levels) - 1
    if (found := _within(problem, float(levels[high]))) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if (at := _within(problem, float(levels[middle]))) is None:
            low = middle + 1
        else:
            high, found = middle, at
    return Solution(found, max(problem.of_choices(found)), problem.total(found))


def _within(problem: Problem, bound: float) -> tuple[int, ...] | None:
    """Each group's least size of a cost up to ``bound``; None where they do not fit together."""
    choices = []
    for costs, sizes in zip(problem.costs, problem.sizes, strict=True):
        allowed = np.flatnonzero(costs <= bound)
        if not len(allowed):
            return None
        choices.append(int(allowed[np.lexsort((costs[allowed], sizes[allowed]))[0]]))
    return tuple(choices) if problem.total(choices) <= problem.budget else None
