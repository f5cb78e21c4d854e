"""Factors that are mixes of random bases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.bridged import BASIS
from compression.adapters.chained import Chain, Chained, ChainedAdapter, chained
from compression.methods.base import Shape, Slot, matrix_shape
from compression.registry import IntRange, InvalidSetting, Values, knob


@ADAPTERS.register("nola")
class Nola(ChainedAdapter):
    """NOLA: ``y = W x + (alpha / r) (sum b_i B_i) (sum a_i A_i) x`` with a and b trained.

    A_i (r, n) and B_i (m, r), k of each for each layer, are uniform in +-1/sqrt(n) and +-1/sqrt(r),
    rebuilt from ``seed`` and the layer's name. a starts at 1/sqrt(k), which gives A the variance
    of LoRA's, and b at 0: the base exactly. Stored bytes, whatever the rank: ``2 b k`` a layer, and
    8 in all for the checksum of the bases. In memory these take ``4 k r (m + n)`` bytes a layer.

    Source: Koohpayegani et al., NOLA, arXiv 2310.02556.
    """

    catalogue_id = "001-29"
    # Its GPT-2 recipe has 0.1 where LoRA's has 2e-4, with bases of another size: taken in part.
    lr_factor = 30.0
    trained = frozenset({"mix_A", "mix_B"})
    rebuilt = frozenset({"basis_A", "basis_B", BASIS})
    drawn: ClassVar[tuple[str, str]] = ("basis_A", "basis_B")
    n_basis: int = knob(
        64, IntRange(1, 65536), Values((16, 64, 256)), help="k, bases of A and of B each"
    )
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the bases")

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        return {"mix_A": (self.n_basis,), "mix_B": (self.n_basis,)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        k = self.n_basis
        mixes = {"mix_A": torch.full((k,), k**-0.5), "mix_B": torch.zeros(k)}
        return self.again(name, tuple(weight.shape), start.rank, mixes)

    def again(
        self, name: str, shape: Shape, rank: int, stored: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.again`: the bases, and a checksum of them."""
        (rows, columns), stream = matrix_shape(shape), f"{self.name}/{self.seed}/{name}"
        a = philox.uniform(f"{stream}.A", (self.n_basis, rank, columns), columns**-0.5)
        b = philox.uniform(f"{stream}.B", (self.n_basis, rows, rank), rank**-0.5)
        return {**stored, "basis_A": a, "basis_B": b, BASIS: philox.checksum([a, b])}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        mixed = (_mix(own["mix_A"], own["basis_A"]), _mix(own["mix_B"], own["basis_B"]))
        return [Chain(layer.scale, mixed)]

    def parameters(self, model: torch.nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        names = list(layers)
        return super().parameters(model, names) | self._checksum(model, names)

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        checksum = Slot(torch.uint8, (8,), "adapter")
        return super().layout(layers) | {f"{name}.{BASIS}": checksum for name in list(layers)[:1]}

    def restore(
        self,
        model: torch.nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`.

        Raises:
            InvalidSetting: the bases are not what they were.
        """
        super().restore(model, layers, tensors)
        for key, value in self._checksum(model, list(layers)).items():
            if not torch.equal(value.cpu(), tensors[key].cpu()):
                raise InvalidSetting([f"{key}: what is rebuilt from the seed is not what it was"])

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``: A and B are mixed once for all positions."""
        return rank * sum(matrix_shape(shape))

    def _checksum(self, model: torch.nn.Module, names: list[str]) -> dict[str, Tensor]:
        """One for all layers, of those that each has kept of its bases."""
        parts = [chained(model, name).own()[BASIS] for name in names]
        return {f"{names[0]}.{BASIS}": philox.checksum(parts)} if names else {}


def _mix(weights: Tensor, basis: Tensor) -> Tensor:
    """The sum of k matrices (k, rows, columns) times weights (k,)."""
    return (weights @ basis.flatten(1)).view_as(basis[0])
