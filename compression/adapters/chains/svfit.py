"""Training the largest singular values."""

from __future__ import annotations

from torch import Tensor

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, top_svd
from compression.methods.base import Shape, matrix_shape


@ADAPTERS.register("svfit")
class SvFit(ChainedAdapter):
    """SVFit: ``W' = U_r diag(s) V_r^T + W_rest``, only the r largest singular values s trained.

    Kept as ``y = W x + U_r diag(d) V_r^T x`` with ``d = s - sigma`` (r,), 0 at the start: the same
    steps, but for a weight decay, which draws s towards sigma and not towards 0. The factors are
    those of the base as it is decoded. Stored bytes: ``b (r (m + n) + r)``. Published as r numbers;
    the singular vectors cannot be computed again bit for bit, so they are stored, and the file is
    larger than that of a lora of this rank.

    Source: SVFit, arXiv 2409.05926.
    """

    catalogue_id = "001-174"
    # As VeRA's and IA3's, which train vectors too; an estimate.
    lr_factor = 10.0
    of_base = True
    scaled = False
    trained = frozenset({"shift"})

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        return {"A": (rank, columns), "shift": (rank,), "B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        u, s, vh = top_svd(weight, start.rank)
        return {"A": vh, "shift": s.new_zeros(len(s)), "B": u}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        return [Chain(1.0, (own["A"], own["shift"], own["B"]))]
