"""A small matrix for each layer between a common encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from compression.adapters.base import ADAPTERS
from compression.adapters.chains.chained import Chained, first, further
from compression.adapters.chains.lotr import Lotr
from compression.registry import Values, knob

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


@ADAPTERS.register("dense_lora")
class DenseLora(Lotr):
    """DenseLoRA: ``y = W_l x + (alpha / r) B f(M_l f(A x))``; layers of one shape share B and A.

    As lotr, with an elementwise f after the encoder A (r, n) and before the decoder B (m, r); M_l
    (r, r) starts at 0 and f(0) = 0: the base exactly. Where f stands is our reading: the
    catalogue's row is marked as uncertain. relu is not among the f, as at M_l = 0 it passes no
    gradient. The delta is not linear in x, so no weight can take it in. Published for layers of one
    type, here of one shape. Stored bytes, for L layers of one shape: ``b (r (m + n) + L r^2)``.

    Source: DenseLoRA, arXiv 2505.23808.
    """

    catalogue_id = "001-112"
    activation: str = knob(
        "gelu", Values(tuple(_ACTIVATIONS)), Values(tuple(_ACTIVATIONS)), help="the function f"
    )

    def output(self, layer: Chained, x: Tensor) -> Tensor:
        """See :meth:`ChainedAdapter.output`: the chain with f between its matrices."""
        base: Tensor = layer.base_layer(x)
        [(scale, (a, core, b))] = self.chains(layer)
        activation = _ACTIVATIONS[self.activation]
        coded = activation(first(layer.base_layer, a, x))
        changed = activation(further(layer.base_layer, core, coded))
        return (base + further(layer.base_layer, b, changed) * scale).to(base.dtype)
