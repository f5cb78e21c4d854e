"""Low-rank adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.adapters import peft_bridge
from compression.adapters.base import ADAPTERS, Adapter, AdapterStart
from compression.methods.base import Shape, Slot, matrix_shape
from compression.precision import DTYPES
from compression.registry import Values, knob


@ADAPTERS.register("lora")
class Lora(Adapter):
    """LoRA: ``y = W x + (alpha / r) B A x`` with B (out, r) and A (r, in) trained.

    With ``scaling=alpha`` the delta is ``alpha B A x``, as LoRA-Compression (catalogue 000) has it:
    steps then grow with alpha, and with them what diverges.

    On a convolution A is an r-channel kernel of the layer's size and B a 1x1 one. Trained in
    float32, stored in ``dtype``. Stored bytes: ``b r (m + n)``.

    Source: Hu et al., LoRA, arXiv 2106.09685.
    """

    dtype: str = knob(
        "float32", Values(("float32", "float16", "bfloat16")), help="storage format of the adapter"
    )

    additive = True
    of_alpha = frozenset({"scaling"})
    scaling: str = knob(
        "alpha_over_rank", Values(("alpha_over_rank", "alpha")), help="what B A is multiplied by"
    )

    def scale(self, alpha: float | None, rank: int) -> float:
        """See :meth:`Adapter.scale`."""
        if self.scaling == "alpha" and alpha is not None:
            return alpha
        return super().scale(alpha, rank)

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        peft_bridge.inject(model, {name: (s.rank, s.alpha) for name, s in starts.items()})
        peft_bridge.set_factors(model, starts)

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        return peft_bridge.named(model, layers)

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        slots = {}
        for name, (shape, rank) in layers.items():
            rows, columns = matrix_shape(shape)
            slots[f"{name}.lora_A"] = Slot(DTYPES[self.dtype], (rank, columns), "adapter")
            slots[f"{name}.lora_B"] = Slot(DTYPES[self.dtype], (rows, rank), "adapter")
        return slots

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`."""
        peft_bridge.inject(model, layers)
        peft_bridge.copy_stored(self.parameters(model, layers), tensors)

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))

    def nominal_bits(self, shape: Shape, rank: int) -> int:
        """``r (m + n)`` values in the bits of their dtype."""
        return 8 * DTYPES[self.dtype].itemsize * rank * sum(matrix_shape(shape))
