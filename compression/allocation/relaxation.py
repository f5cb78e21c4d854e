"""The linear relaxation of the groups from some depth on: a bound, and a solution rounded down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compression.allocation.solution import Floats, Ints


@dataclass(frozen=True)
class _Steps:
    """Steps along the lower convex hulls of some groups, steepest first.

    ``sizes`` and ``costs`` are those of all groups together after 0, 1, ... steps; step i takes
    group ``groups[i]`` to its choice ``choices[i]``.
    """

    sizes: Ints
    costs: Floats
    groups: Ints
    choices: Ints


class Relaxation:
    """``min sum_l cost`` if choices could be mixed, for the groups ``depth, depth + 1, ...``.

    Piecewise linear and convex in the bytes left: from every group's smallest choice on, the steps
    along the groups' lower convex hulls by falling gain per byte.

    Args:
        costs: by group, strictly falling.
        sizes: by group, strictly growing.
    """

    def __init__(self, costs: Sequence[Floats], sizes: Sequence[Ints]) -> None:
        self._hulls = [_hull(c, s) for c, s in zip(costs, sizes, strict=True)]
        rows = [
            (-gain, group, end, more)
            for group, hull in enumerate(self._hulls)
            for end, more, gain in _steps(costs[group], sizes[group], hull)
        ]
        self._slope = np.array([row[0] for row in rows])
        self._group = np.array([row[1] for row in rows], np.int64)
        self._choice = np.array([row[2] for row in rows], np.int64)
        self._more = np.array([row[3] for row in rows], np.int64)
        self._order = np.lexsort((self._choice, self._group, self._slope))
        self._costs, self._sizes = costs, sizes
        self._at = [self._from(depth) for depth in range(len(costs) + 1)]

    def least_cost(self, depth: int, left: Any) -> Any:
        """The bound for so many bytes left, of any shape; infinite below the least."""
        at = self._at[depth]
        return np.interp(left, at.sizes, at.costs, left=np.inf)

    def whole_steps(self, depth: int, left: Ints) -> Ints:
        """How many steps fit; -1 where not even the smallest choices do."""
        return np.searchsorted(self._at[depth].sizes, left, side="right") - 1

    def cost_after(self, depth: int, steps: Ints) -> Floats:
        """The cost after so many steps; infinite after -1."""
        return np.where(steps < 0, np.inf, self._at[depth].costs[np.maximum(steps, 0)])

    def choices_after(self, depth: int, steps: int) -> list[int]:
        """The choice of each group after so many steps."""
        at, found = self._at[depth], [0] * (len(self._costs) - depth)
        for group, choice in zip(at.groups[:steps], at.choices[:steps], strict=True):
            found[group - depth] = int(choice)
        return found

    def _from(self, depth: int) -> _Steps:
        order = self._order[self._group[self._order] >= depth]
        sizes = np.array([0, *self._more[order]], np.int64)
        costs = np.array([0.0, *(self._slope[order] * self._more[order])])
        sizes[0] = sum(int(s[0]) for s in self._sizes[depth:])
        costs[0] = sum(float(c[0]) for c in self._costs[depth:])
        own = np.cumsum(sizes), np.cumsum(costs)
        return _Steps(*own, self._group[order], self._choice[order])


def _hull(costs: Floats, sizes: Ints) -> list[int]:
    """Indices on the lower convex hull of points by growing size and falling cost."""
    found: list[int] = []
    for i in range(len(costs)):
        while len(found) > 1:
            a, b = found[-2], found[-1]
            before = (costs[b] - costs[a]) * (sizes[i] - sizes[a])
            if before < (costs[i] - costs[a]) * (sizes[b] - sizes[a]):
                break
            found.pop()
        found.append(i)
    return found


def _steps(costs: Floats, sizes: Ints, hull: Sequence[int]) -> list[tuple[int, int, float]]:
    """Of each step on a hull: where it ends, its bytes, and its gain per byte."""
    found = []
    for a, b in zip(hull, hull[1:], strict=False):
        more = int(sizes[b] - sizes[a])
        found.append((b, more, float(costs[a] - costs[b]) / more))
    return found
