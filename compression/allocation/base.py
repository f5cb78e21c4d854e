"""The contract of an allocator: what a choice for a group costs, and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from compression.allocation.least_sum import least_sum
from compression.allocation.solution import Problem, Solution
from compression.methods.base import Method, Shape
from compression.registry import Plugin, Registry
from compression.stats import LayerStats, Need

Measure = Literal["growth", "distortion"]
"""Of the model with one group compressed alone, on calibration examples: by how much its loss
grows, or the mean squared distance of its outputs from the dense model's."""


@dataclass(frozen=True)
class Candidate:
    """One way to store the layers of a group.

    ``weights`` are the dense ones by layer, ``stats`` those of them that the allocator asked for;
    ``measured`` is there if it asked for that.
    """

    method: Method
    weights: Mapping[str, Tensor]
    stats: Mapping[str, LayerStats] = field(default_factory=dict)
    measured: float | None = None


class Allocator(Plugin, ABC):
    """A rule that gives each group of layers one of its candidates, within a budget of bytes."""

    measure: ClassVar[Measure | None] = None
    """What has to be measured of each candidate in the model."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What calibration has to compute for it, of every layer."""
    adapted: ClassVar[bool] = False
    """Whether it tells adapters and their starts apart; else all candidates have one kind."""

    def refusal(self, method: Method, shape: Shape) -> str | None:
        """Why it cannot judge a method on a weight of this shape; None where it can."""
        return None

    @abstractmethod
    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """What each candidate of one group costs: finite, less is better."""

    def value(self, costs: Sequence[float]) -> float:
        """What is minimised of the costs of all groups: by default their sum."""
        return sum(costs)

    def solve(self, problem: Problem) -> Solution | None:
        """The least :meth:`value` within the budget; None where nothing fits."""
        return least_sum(problem)


ALLOCATORS: Registry[Allocator] = Registry("allocator", Allocator)
