"""Low-rank adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart, Pair
from compression.adapters.bridge.bridged import PEFT_NAME, Bridged
from compression.adapters.bridge.peft_layers import NO_LORA, oddities
from compression.kinds import bare
from compression.methods.base import Method, Shape, Slot, matrix_shape
from compression.precision import DTYPES
from compression.registry import Values, knob


@ADAPTERS.register("lora")
class Lora(Bridged):
    """LoRA: ``y = W x + (alpha / r) B A x`` with B (out, r) and A (r, in) trained.

    With ``scaling=alpha`` the delta is ``alpha B A x``, as LoRA-Compression (catalogue 000) has it:
    steps then grow with alpha, and with them what diverges.

    On a convolution A is an r-channel kernel of the layer's size and B a 1x1 one. Trained in
    float32, stored in ``dtype``. Stored bytes: ``b r (m + n)``.

    Source: Hu et al., LoRA, arXiv 2106.09685.
    """

    catalogue_id = "001-183"
    peft_type = "LORA"
    kinds = frozenset({"linear", "conv2d"})
    additive = takes_delta = factored = True
    of_alpha = frozenset({"scaling"})
    scaling: str = knob(
        "alpha_over_rank", Values(("alpha_over_rank", "alpha")), help="what B A is multiplied by"
    )

    def scale(self, alpha: float | None, rank: int) -> float:
        """See :meth:`Adapter.scale`."""
        if self.scaling == "alpha" and alpha is not None:
            return alpha
        return super().scale(alpha, rank)

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`."""
        wrong = list(super(Bridged, self).refusals(layers, rank, methods))
        yield from wrong
        for name, layer in layers.items():
            yield from oddities(self.name, name, bare(layer), NO_LORA)

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "init_lora_weights": False}

    @torch.no_grad()
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`: B gets the start's, with the scale divided out."""
        super().attach(model, starts)
        for layer, start in starts.items():
            if start.A is not None and start.B is not None:
                a, b, scale = self._factors(model, layer)
                a.copy_(start.A.view_as(a))
                b.copy_((start.B / scale).view_as(b))

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        slots = {}
        for name, (shape, rank) in layers.items():
            rows, columns = matrix_shape(shape)
            slots[f"{name}.lora_A"] = Slot(DTYPES[self.dtype], (rank, columns), "adapter")
            slots[f"{name}.lora_B"] = Slot(DTYPES[self.dtype], (rows, rank), "adapter")
        return slots

    def pairs(self, model: nn.Module, layers: Iterable[str]) -> list[Pair]:
        """See :meth:`Adapter.pairs`."""
        return [self._factors(model, name) for name in layers]

    def _factors(self, model: nn.Module, layer: str) -> Pair:
        """PEFT's live A and B of a layer, in their own shapes."""
        wrapped: Any = model.get_submodule(layer)
        parts = (wrapped.lora_A[PEFT_NAME].weight, wrapped.lora_B[PEFT_NAME].weight)
        return Pair(*parts, wrapped.scaling[PEFT_NAME])

    def delta(self, model: nn.Module, layer: str) -> Tensor:
        """See :meth:`Adapter.delta`."""
        a, b, scale = self._factors(model, layer)
        return scale * b.flatten(1) @ a.flatten(1)

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))
