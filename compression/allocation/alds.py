"""Low rank with the least largest relative error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.allocation.least_largest import least_largest
from compression.allocation.least_sum import least_sum
from compression.allocation.solution import Problem, Solution
from compression.allocation.spectra import left_out
from compression.methods.base import Method, Shape
from compression.methods.low_rank.block_svd import BlockSVD
from compression.methods.low_rank.svd import TruncatedSVD
from compression.methods.none import NoMethod


@ALLOCATORS.register("alds")
class ALDS(Allocator):
    """The least largest relative error of low-rank layers, over tiles and ranks together.

    ``min max_l max_i sigma_{r+1}(W_i) / sigma_1(W)`` over the tiles W_i of layer l's weight, so
    that both how a weight is cut (``block_svd``; a tile as high as the matrix makes the paper's
    groups of channels; ``svd`` has one) and its rank are chosen. The bytes that this leaves lower
    the sum of these bounds. It looks at weights alone.

    Source: Liebenwein et al., Compressing Neural Networks: Towards Determining the Optimal
    Layer-wise Decomposition, arXiv 2107.11442.
    """

    catalogue_id = "001-6"

    def refusal(self, method: Method, shape: Shape) -> str | None:
        """See :meth:`Allocator.refusal`."""
        if isinstance(method, TruncatedSVD | BlockSVD | NoMethod):
            return None
        return "bounds what a truncated SVD leaves out; it takes svd, block_svd and none"

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the bounds."""
        return left_out(candidates)

    def value(self, costs: Sequence[float]) -> float:
        """See :meth:`Allocator.value`: the largest."""
        return max(costs)

    def solve(self, problem: Problem) -> Solution | None:
        """See :meth:`Allocator.solve`: the least largest, and of such the least sum."""
        if (found := least_largest(problem)) is None:
            return None
        allowed = [np.flatnonzero(costs <= found.value) for costs in problem.costs]
        few = Problem(
            tuple(costs[a] for costs, a in zip(problem.costs, allowed, strict=True)),
            tuple(sizes[a] for sizes, a in zip(problem.sizes, allowed, strict=True)),
            problem.budget,
        )
        filled = least_sum(few)
        if filled is None:  # not so: what was found is among the few
            return found
        choices = tuple(int(a[k]) for a, k in zip(allowed, filled.choices, strict=True))
        return Solution(choices, self.value(problem.of_choices(choices)), filled.size)
