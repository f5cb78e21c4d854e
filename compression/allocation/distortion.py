"""By how far the model's outputs move."""

from __future__ import annotations

from collections.abc import Sequence

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.allocation.readings import readings


@ALLOCATORS.register("distortion")
class Distortion(Allocator):
    """The least sum of output distortions, of every method, adapter and start.

    ``min sum_l E ||f(x) - f_l(x)||^2``, f_l the model with group l alone compressed, x calibration
    examples. Never negative and without labels: where these are few, it is the steadier measure.
    """

    catalogue_id = None
    measure = "distortion"
    adapted = True

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the distortions."""
        return readings(candidates, self.name)
