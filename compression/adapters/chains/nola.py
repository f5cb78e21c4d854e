"""Factors that are mixes of random bases."""

from __future__ import annotations

import torch
from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import BASIS
from compression.adapters.chains.chained import Chain, Chained
from compression.adapters.chains.seeded import Seeded
from compression.methods.base import Shape, matrix_shape
from compression.registry import IntRange, Values, knob


@ADAPTERS.register("nola")
class Nola(Seeded):
    """NOLA: ``y = W x + (alpha / r) (sum b_i B_i) (sum a_i A_i) x`` with a and b trained.

    A_i (r, n) and B_i (m, r), k of each for each layer, are uniform in +-1/sqrt(n) and +-1/sqrt(r),
    rebuilt from ``seed`` and the layer's name. a starts at 1/sqrt(k), which gives A the variance
    of LoRA's, and b at 0: the base exactly. Stored bytes, whatever the rank: ``2 b k`` a layer, and
    8 in all for the checksum of the bases. In memory these take ``4 k r (m + n)`` bytes a layer.

    Source: Koohpayegani et al., NOLA, arXiv 2310.02556.
    """

    catalogue_id = "001-29"
    # Its GPT-2 recipe has 0.1 where LoRA's has 2e-4, with bases of another size; the best of
    # docs/adapters.md are 0.3 times LoRA's: in between.
    lr_factor = 3.0
    trained = frozenset({"mix_A", "mix_B"})
    rebuilt = frozenset({"basis_A", "basis_B", BASIS})
    n_basis: int = knob(
        64, IntRange(1, 65536), Values((16, 64, 256)), help="k, bases of A and of B each"
    )

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        return {"mix_A": (self.n_basis,), "mix_B": (self.n_basis,)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        k = self.n_basis
        mixes = {"mix_A": torch.full((k,), k**-0.5), "mix_B": torch.zeros(k)}
        return self.again(name, tuple(weight.shape), start.rank, mixes)

    def drawn(self, stream: str, shape: Shape, rank: int) -> dict[str, Tensor]:
        """See :meth:`Seeded.drawn`: the bases."""
        rows, columns = matrix_shape(shape)
        a = philox.uniform(f"{stream}.A", (self.n_basis, rank, columns), columns**-0.5)
        b = philox.uniform(f"{stream}.B", (self.n_basis, rows, rank), rank**-0.5)
        return {"basis_A": a, "basis_B": b}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        mixed = (_mix(own["mix_A"], own["basis_A"]), _mix(own["mix_B"], own["basis_B"]))
        return [Chain(layer.scale, mixed)]

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``: A and B are mixed once for all positions."""
        return rank * sum(matrix_shape(shape))


def _mix(weights: Tensor, basis: Tensor) -> Tensor:
    """The sum of k matrices (k, rows, columns) times weights (k,)."""
    return (weights @ basis.flatten(1)).view_as(basis[0])
