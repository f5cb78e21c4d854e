"""Scaled and shifted singular values beside a low-rank delta."""

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


@ADAPTERS.register("salt")
class Salt(ChainedAdapter):
    """SALT: the k largest singular values become ``a sigma + b``, and a LoRA of rank r is added.

    ``y = W x + U_k diag(sigma (a - 1) + b) V_k^T x + (alpha / r) B A x``; a, b (k,), B (m, r) and
    A (r, n) are trained, from a = 1, b = 0, B = 0: the base exactly. k is ``top``, at most
    min(m, n). Stored bytes: ``b ((k + r) (m + n) + 3 k)``: U_k, V_k and sigma, of the base as it is
    decoded, are stored too, for they cannot be computed again bit for bit. By what is trained
    alone, as published, it would be ``b (2 k + r (m + n))``.

    Source: SALT, arXiv 2503.16055.
    """

    catalogue_id = "001-45"
    of_base = True
    trained = frozenset({"gain", "shift", "lora_A", "lora_B"})
    top: int = knob(
        4, IntRange(1, 4096), Values((2, 4, 16)), help="singular values that are scaled and shifted"
    )

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        rows, columns = matrix_shape(shape)
        top = min(self.top, rows, columns)
        values: dict[str, Shape] = {"sigma": (top,), "gain": (top,), "shift": (top,)}
        vectors = {"V": (top, columns), "U": (rows, top)}
        return {**values, **vectors, "lora_A": (rank, columns), "lora_B": (rows, rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        rows, columns = matrix_shape(weight.shape)
        u, s, vh = top_svd(weight, min(self.top, rows, columns))
        return {
            "sigma": s,
            "gain": s.new_ones(len(s)),
            "shift": s.new_zeros(len(s)),
            "V": vh,
            "U": u,
            "lora_A": random_matrix(start.rank, columns),
            "lora_B": weight.new_zeros(rows, start.rank),
        }

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        moved = own["sigma"] * (own["gain"] - 1) + own["shift"]
        singular = Chain(1.0, (own["V"], moved, own["U"]))
        return [singular, Chain(layer.scale, (own["lora_A"], own["lora_B"]))]

    def macs(self, shape: Shape, rank: int) -> int:
        """``(k + r) (m + n) + k``."""
        slots = self.slots(shape, rank)
        top = slots["sigma"][0]
        return (top + rank) * sum(matrix_shape(shape)) + top
