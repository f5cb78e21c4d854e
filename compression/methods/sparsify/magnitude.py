"""The largest weights."""

from __future__ import annotations

from torch import Tensor

from compression.methods.base import METHODS, Method
from compression.methods.sparsify.keeping import keep_top
from compression.methods.sparsify.sparse_form import Unstructured
from compression.stats import LayerStats


@METHODS.register("magnitude")
class Magnitude(Unstructured):
    """The largest weights of a layer by absolute value, ``round((1 - sparsity) m n)`` of them.

    No other choice of so many entries is nearer to W in the Frobenius norm.

    Stored bytes: ``b k + min(ceil(N / 8), i)`` for k of N = m n values of b bytes, with
    ``i = ceil(k l / 8) + ceil((k + floor((N - 1) / 2^l)) / 8)``, l from 1 to 16 the best.

    Source: Han et al., Learning both Weights and Connections, arXiv 1506.02626.
    """

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1)
        sizes = matrix.abs().flatten()
        mask = keep_top(sizes, self.budget(len(sizes)))
        return self.store(matrix, mask.view_as(matrix))
