"""Whole ranks in proportion to how much layers matter, within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from torch import Tensor

from compression.methods.base import matrix_shape
from compression.registry import FloatRange, Plugin, knob

_NOTHING = 1e-9  # of the greatest, below which a layer counts as not wanted
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bounded(Plugin):
    """Knobs of an adapter whose ranks are set by layer: between factors of the rank asked for."""

    min_factor: float = knob(0.5, FloatRange(0.0, 1.0), help="least rank of a layer over ``rank``")
    max_factor: float = knob(4.0, FloatRange(1.0, 64.0), help="most rank of a layer over ``rank``")

    def by_importance(
        self, rank: int, weights: Mapping[str, Tensor], importance: Mapping[str, float]
    ) -> dict[str, int]:
        """Ranks in proportion, with no more values than ``rank`` on all layers would have.

        ``sum r_l (m_l + n_l) <= sum min(rank, m_l, n_l) (m_l + n_l)``.
        """
        sizes = {name: matrix_shape(tuple(weight.shape)) for name, weight in weights.items()}
        costs = {name: sum(size) for name, size in sizes.items()}
        uniform = {name: min(rank, *size) for name, size in sizes.items()}
        budget = sum(uniform[name] * costs[name] for name in sizes)
        least = {name: min(floor(self.min_factor * rank), *size) for name, size in sizes.items()}
        most = {name: min(floor(self.max_factor * rank), *size) for name, size in sizes.items()}
        if not any(importance.values()):
            return uniform
        return allot(importance, costs, budget, least, most)


def allot(
    wanted: Mapping[str, float],
    costs: Mapping[str, int],
    budget: int,
    least: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """Whole numbers near ``c wanted``, within bounds, c the greatest that the budget allows.

    ``sum cost number <= budget``, unless the least numbers cost more: then it is these. What
    rounding down leaves goes to those that lost most by it, as far as it lasts.
    """
    # Of the largest: what is next to nothing in a float has no quotient.
    largest = max(wanted.values(), default=0.0) or 1.0
    shares = {n: w / largest for n, w in wanted.items()}
    weight = {n: w if w > _NOTHING else 0.0 for n, w in shares.items()}

    def at(c: float) -> dict[str, float]:
        return {n: min(max(c * w, float(least[n])), float(most[n])) for n, w in weight.items()}

    def cost(numbers: Mapping[str, float]) -> float:
        return sum(costs[name] * number for name, number in numbers.items())

    # Between the points where a bound begins or ends to hold, the cost is linear in c.
    bends = sorted({bound[n] / w for n, w in weight.items() if w for bound in (least, most)})
    low = max((c for c in bends if cost(at(c)) <= budget), default=0.0)
    high = min((c for c in bends if c > low), default=low)
    slope = cost(at(high)) - cost(at(low))
    exact = at(low + max(budget - cost(at(low)), 0.0) / slope * (high - low) if slope else low)
    found = {name: floor(number + _ROUNDING) for name, number in exact.items()}
    left = budget - cost(found)
    for name in sorted(exact, key=lambda name: found[name] - exact[name]):
        if found[name] < most[name] and costs[name] <= left and weight[name]:
            found[name] += 1
            left -= costs[name]
    return found
