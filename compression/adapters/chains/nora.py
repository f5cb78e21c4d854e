"""A low-rank delta inside a frozen one."""

from __future__ import annotations

from torch import Tensor

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import (
    Chain,
    Chained,
    ChainedAdapter,
    random_matrix,
    top_svd,
)
from compression.methods.base import Shape, matrix_shape
from compression.registry import IntRange, Values, knob


@ADAPTERS.register("nora")
class Nora(ChainedAdapter):
    """NoRA: ``y = W x + (alpha / r) B_o B_i A_i A_o x``, only B_i (r, q) and A_i (q, r) trained.

    ``B_o = U_r sqrt(S_r)`` and ``A_o = sqrt(S_r) V_r^T`` are frozen, of the base as it is decoded.
    B_i starts at 0. q is ``inner``, at most r. Stored bytes: ``b (r (m + n) + 2 q r)``. Published
    as 2 q r numbers; B_o and A_o cannot be computed again bit for bit, so they are stored, and the
    file is larger than that of a lora of this rank.

    Source: NoRA, arXiv 2408.10280.
    """

    catalogue_id = "001-41"
    # An estimate, as that of lora_xs: few numbers, each moving the whole matrix.
    lr_factor = 5.0
    of_base = True
    trained = frozenset({"inner_A", "inner_B"})
    inner: int = knob(2, IntRange(1, 1024), Values((1, 2, 4)), help="rank q of the trained factors")

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        (rows, columns), q = matrix_shape(shape), min(self.inner, rank)
        inner: dict[str, Shape] = {"inner_A": (q, rank), "inner_B": (rank, q)}
        return {"outer_A": (rank, columns), **inner, "outer_B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        u, s, vh = top_svd(weight, start.rank)
        root, q = s.sqrt(), min(self.inner, start.rank)
        return {
            "outer_A": root[:, None] * vh,
            "inner_A": random_matrix(q, start.rank),
            "inner_B": s.new_zeros(start.rank, q),
            "outer_B": u * root,
        }

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        order = ("outer_A", "inner_A", "inner_B", "outer_B")
        return [Chain(layer.scale, tuple(own[suffix] for suffix in order))]
