"""What is to be solved, and what a solution is: one choice for each of several groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """The choice of each group, its value, and the bytes of all together.

    ``value`` is what was minimised: a sum or a largest cost. It is above the least there is by
    ``gap`` at most: 0 where that is proven.
    """

    choices: tuple[int, ...]
    value: float
    size: int
    gap: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Costs and sizes by group and choice, and the bytes that all groups may take together.

    Raises:
        ValueError: no group, a group without a choice, unequal lengths, a cost that is not finite,
            a negative size.
    """

    costs: tuple[Floats, ...]
    sizes: tuple[Ints, ...]
    budget: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.costs or len(self.costs) != len(self.sizes):
            raise ValueError(f"{len(self.costs)} groups of costs and {len(self.sizes)} of sizes")
        for group, (costs, sizes) in enumerate(zip(self.costs, self.sizes, strict=True)):
            if costs.ndim != 1 or costs.shape != sizes.shape or not costs.size:
                raise ValueError(f"group {group}: costs {costs.shape}, sizes {sizes.shape}")
            if not np.isfinite(costs).all() or (sizes < 0).any():
                raise ValueError(f"group {group}: a cost is not finite, or a size is negative")

    @classmethod
    def of(
        cls, costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int
    ) -> Problem:
        """From plain numbers."""
        return cls(
            tuple(np.asarray(several, dtype=np.float64) for several in costs),
            tuple(np.asarray(several, dtype=np.int64) for several in sizes),
            int(budget),
        )

    def total(self, choices: Sequence[int]) -> int:
        """Bytes of a choice for each group."""
        return sum(int(s[k]) for s, k in zip(self.sizes, choices, strict=True))

    def of_choices(self, choices: Sequence[int]) -> list[float]:
        """The cost of each group under its choice."""
        return [float(c[k]) for c, k in zip(self.costs, choices, strict=True)]


def undominated(costs: Floats, sizes: Ints) -> Ints:
    """Indices of the choices that no other beats in both, by growing size and falling cost.

    Of equals the first is kept.
    """
    order = np.lexsort((costs, sizes))
    before = np.minimum.accumulate(costs[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = costs[order][1:] < before[:-1]
    return order[keep].astype(np.int64)
