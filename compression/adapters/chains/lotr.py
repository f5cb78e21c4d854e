"""Low tensor rank: layers share the outer factors."""

from __future__ import annotations

from torch import Tensor

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, random_matrix
from compression.methods.base import Shape, matrix_shape


@ADAPTERS.register("lotr")
class Lotr(ChainedAdapter):
    """LoTR: ``y = W_l x + (alpha / r) B G_l A x``; layers of one shape and rank share B and A.

    B (m, r), A (r, n) and G_l (r, r) are trained, G_l from 0: the base exactly. A layer that is
    alone in its shape has B and A for itself. Stored bytes, for L layers of one shape:
    ``b (r (m + n) + L r^2)``.

    Source: Bershatsky et al., LoTR, arXiv 2402.01376.
    """

    catalogue_id = "001-61"
    trained = frozenset({"A", "mixer", "B"})
    shared = frozenset({"A", "B"})

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        return {"A": (rank, columns), "mixer": (rank, rank), "B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        (rows, columns), rank = matrix_shape(weight.shape), start.rank
        core = weight.new_zeros(rank, rank)
        return {"A": random_matrix(rank, columns), "mixer": core, "B": random_matrix(rows, rank)}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        return [Chain(layer.scale, (own["A"], own["mixer"], own["B"]))]
