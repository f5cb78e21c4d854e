"""Sparsities by the distortion of the model's output."""

from __future__ import annotations

from collections.abc import Sequence

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.allocation.readings import readings
from compression.methods.base import Method, Shape


@ALLOCATORS.register("rd_prune")
class RDPrune(Allocator):
    """The least sum of output distortions of pruned layers, by dynamic programme.

    ``E ||f(W) - f(W')||^2 ~ sum_l d_l(s_l)``, with d_l(s) the mean squared distance of the model's
    outputs from the dense model's where group l alone is pruned to sparsity s: one point of its
    rate-distortion curve for each candidate. Bytes take the place of the count of nonzeros.

    Source: Xu et al., Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural
    Networks, arXiv 2308.10438.
    """

    catalogue_id = "001-16"
    measure = "distortion"

    def refusal(self, method: Method, shape: Shape) -> str | None:
        """See :meth:`Allocator.refusal`: it takes what keeps some of the weights."""
        if method.refills:
            return None
        return "allots sparsities; it takes methods that keep some of the weights, and none"

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the distortions."""
        return readings(candidates, self.name)
