"""By what the model's loss grows by."""

from __future__ import annotations

from collections.abc import Sequence

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.allocation.readings import readings


@ALLOCATORS.register("measured")
class Measured(Allocator):
    """The least sum of measured loss growths: method, bits, rank, adapter and start together.

    ``min sum_l L(model with group l alone compressed as k_l) - L(dense)``, L the training loss on
    calibration examples. A negative growth counts as what it is.
    """

    catalogue_id = None
    measure = "growth"
    adapted = True

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the growths."""
        return readings(candidates, self.name)
