"""Weight-decomposed adaptation with a small trained core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import Chain, Chained, ChainedAdapter, through, top_svd
from compression.methods.base import Shape, matrix_shape

NORM_FLOOR = 1e-6
"""As in dora: rows of a sparse base may be all zero."""


@ADAPTERS.register("edora")
class EDora(ChainedAdapter):
    """EDoRA: ``y = g * V x / ||V||_row`` with ``V = W + (alpha / r) B R A``; g and R trained.

    g is (m,), R (r, r). ``B = U_r S_r`` and ``A = V_r^T`` are frozen, of the base as it is decoded;
    R starts at 0 and g at ``||W||_row``: the base. Norms, one for each output as in dora, have a
    floor of 1e-6, and no gradient goes through them; they are of the dense sum, made anew in each
    call, as Gram matrices would lose what is left where W and the delta cancel. Stored bytes:
    ``b (r (m + n) + r^2 + m)``. Published as r^2 + m numbers; B and A cannot be computed again bit
    for bit, so they are stored, and the file is larger than that of a dora of this rank.

    Source: EDoRA, arXiv 2501.12067.
    """

    catalogue_id = "001-50"
    # An estimate, as that of lora_xs: few numbers, each moving the whole matrix.
    lr_factor = 5.0
    of_base = True
    trained = frozenset({"R", "magnitude"})

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        core: dict[str, Shape] = {"R": (rank, rank), "magnitude": (rows,)}
        return {"A": (rank, columns), **core, "B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        u, s, vh = top_svd(weight, start.rank)
        core = weight.new_zeros(start.rank, start.rank)
        return {"A": vh, "R": core, "magnitude": row_norms(weight.flatten(1)), "B": u * s}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        return [Chain(layer.scale, (own["A"], own["R"], own["B"]))]

    def output(self, layer: Chained, x: Tensor) -> Tensor:
        """See :meth:`ChainedAdapter.output`: the sum without its bias, row by row of norm g."""
        own = layer.own()
        base: Tensor = layer.base_layer(x)
        [(scale, matrices)] = self.chains(layer)
        factor: Tensor = own["magnitude"] / self.norms(layer)
        bias = layer.bias
        if isinstance(layer.base_layer, nn.Conv2d):
            factor = factor[:, None, None]
            bias = None if bias is None else bias[:, None, None]
        found = through(layer.base_layer, matrices, x) * scale
        found = factor * (found + (base if bias is None else base - bias))
        return (found if bias is None else found + bias).to(base.dtype)

    @torch.no_grad()
    def norms(self, layer: Chained) -> Tensor:
        """``||V||_row`` (m,), in float32 whatever the rest is computed in."""
        own, weight = layer.own(), layer.weight.flatten(1).float()
        with torch.autocast(weight.device.type, enabled=False):
            return row_norms(weight + layer.scale * (own["B"] @ own["R"] @ own["A"]))


def row_norms(weight: Tensor) -> Tensor:
    """Of each row of (m, n), at least :data:`NORM_FLOOR`: (m,)."""
    found: Tensor = torch.linalg.vector_norm(weight, dim=1).clamp_min(NORM_FLOOR)
    return found
