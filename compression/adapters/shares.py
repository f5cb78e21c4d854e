"""Whole ranks in proportion to how much layers matter, within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from torch import Tensor

from compression.methods.base import matrix_shape
from compression.registry import FloatRange, Plugin, knob

_HALVINGS = 100


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

    def at(c: float) -> dict[str, float]:
        return {n: min(max(c * wanted[n], float(least[n])), float(most[n])) for n in wanted}

    def cost(numbers: Mapping[str, float]) -> float:
        return sum(costs[name] * number for name, number in numbers.items())

    low = 0.0
    high = max((most[n] / w for n, w in wanted.items() if w > 0), default=0.0)
    if cost(at(high)) <= budget:
        low = high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle)
    exact = at(low)
    found = {name: floor(number) for name, number in exact.items()}
    left = budget - cost(found)
    for name in sorted(exact, key=lambda name: found[name] - exact[name]):
        if found[name] < most[name] and costs[name] <= left and wanted[name] > 0:
            found[name] += 1
            left -= costs[name]
    return found
