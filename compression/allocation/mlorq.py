"""Bits and ranks together, by the error that they make in the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compression.allocation.base import ALLOCATORS, Allocator, Candidate
from compression.methods.base import Method, Shape
from compression.methods.none import NoMethod
from compression.registry import naming
from compression.stats import LayerStats, inputs_of, output_moment_of


@ALLOCATORS.register("mlorq")
class MLoRQ(Allocator):
    """The least sum of loss-weighted errors over bits and ranks of each layer.

    Of each layer the (bits, rank) that no other beats in bytes and error are kept, and one of them
    is chosen for all layers together, exactly. With D = W - W', S = E[x x^T] of the layer's inputs
    and G = E[g g^T] of the gradients of its outputs, the error is ``tr(G D S D^T)``: a second-order
    growth of the loss with a Kronecker-factored curvature. A grouped convolution's S is the mean
    over its groups. Since quantized-only and low-rank-only choices are among the candidates, no
    such choice at the same budget has less error. The paper's curvature needs no labels, and it
    rounds the factors adaptively afterwards: here recovery follows.

    Source: Gordon et al., MLoRQ: Bridging Low-Rank and Quantization for Transformer Compression,
    arXiv 2507.09616.
    """

    catalogue_id = "001-27"
    needs = frozenset({"inputs", "outputs"})

    def refusal(self, method: Method, shape: Shape) -> str | None:
        """See :meth:`Allocator.refusal`: what keeps some of the weights has neither."""
        sparse = method.refills and not isinstance(method, NoMethod)
        if sparse or method.base_is_gone:
            return "weighs bits and ranks; it takes quantizers, low rank, chains of them, and none"
        return None

    def costs(self, candidates: Sequence[Candidate]) -> list[float]:
        """See :meth:`Allocator.costs`: the errors."""
        return [sum(self._errors(candidate)) for candidate in candidates]

    def _errors(self, candidate: Candidate) -> list[float]:
        found = []
        for name, weight in candidate.weights.items():
            with naming(name):
                stats = candidate.stats.get(name)
                base = candidate.method.compress(weight, stats)
                found.append(_error((weight.detach().float() - base.dense()).flatten(1), stats))
        return found


def _error(difference: Tensor, stats: LayerStats | None) -> float:
    """``tr(G D S D^T)`` for D (m, n), S (n, n) and G (m, m)."""
    d = difference.double()
    s, g = inputs_of(stats).pooled().double(), output_moment_of(stats).double()
    return float(torch.einsum("ij,ij->", g @ d, d @ s).clamp(min=0))
