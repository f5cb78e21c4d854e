"""A small trained core between frozen singular vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, top_svd
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, knob


@ADAPTERS.register("lora_xs")
class LoraXs(ChainedAdapter):
    """LoRA-XS: ``y = W x + (alpha / r) U_r S_r R V_r^T x``, only R (r, r) trained.

    The factors are those of the base as it is decoded. R starts normal with deviation
    ``init_sigma``, so the start is the base but for that. Stored bytes: ``b (r (m + n) + r^2)``.
    Published as r^2 numbers, where the factors are computed again from the dense weights of a model
    that everybody has; an SVD does not come out bit for bit alike on two machines, so they are
    stored here, and the file is larger than that of a lora of this rank. Few numbers are trained,
    not stored.

    Source: Balazy et al., LoRA-XS, arXiv 2405.17604.
    """

    catalogue_id = "001-60"
    # An estimate between LoRA's and VeRA's, whose 10 is for vectors: fewer numbers, longer steps.
    lr_factor = 5.0
    of_base = True
    trained = frozenset({"R"})
    init_sigma: float = knob(1e-5, FloatRange(0.0, 1.0), help="standard deviation of R's start")

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        return {"A": (rank, columns), "R": (rank, rank), "B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        u, s, vh = top_svd(weight, start.rank)
        return {"A": vh, "R": torch.randn(start.rank, start.rank) * self.init_sigma, "B": u * s}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        return [Chain(layer.scale, (own["A"], own["R"], own["B"]))]
