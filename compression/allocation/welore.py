"""Low rank at one threshold for all layers."""

from __future__ import annotations

from collections.abc import Sequence

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.allocation.least_largest import least_largest
from compression.allocation.solution import Problem, Solution
from compression.allocation.spectra import left_out
from compression.methods.base import Method, Shape
from compression.methods.low_rank.svd import TruncatedSVD
from compression.methods.none import NoMethod


@ALLOCATORS.register("welore")
class GlobalThreshold(Allocator):
    """The least threshold t on ``sigma_i / sigma_1`` for all layers whose factors fit.

    Each layer gets the fewest bytes that leave nothing above t out: its factors at the least such
    rank of the space, or itself where these are no smaller, ``r (m + n) >= m n``, and the space has
    ``none``. t is found by bisection to the budget. It looks at weights alone. The method of this
    name has t from a share of all singular values instead.

    Source: Jaiswal et al., From GaLore to WeLore, arXiv 2407.11239.
    """

    catalogue_id = "001-25"

    def refusal(self, method: Method, shape: Shape) -> str | None:
        """See :meth:`Allocator.refusal`."""
        if isinstance(method, TruncatedSVD | NoMethod):
            return None
        return "sets a threshold on whole spectra; it takes svd and none"

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the largest share that is left out."""
        return left_out(candidates)

    def value(self, costs: Sequence[float]) -> float:
        """See :meth:`Allocator.value`: the threshold."""
        return max(costs)

    def solve(self, problem: Problem) -> Solution | None:
        """See :meth:`Allocator.solve`: nothing above the threshold's need is spent."""
        return least_largest(problem)
