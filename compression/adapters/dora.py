"""Weight-decomposed low-rank adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.adapters import peft_bridge
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.lora import Lora
from compression.methods.base import Shape, Slot
from compression.precision import DTYPES
from compression.registry import Values, knob


@ADAPTERS.register("dora")
class Dora(Lora):
    """DoRA: ``y = g * V x / ||V||_row`` with ``V = W + (alpha / r) B A``; g, B and A trained.

    The magnitude g (out,) starts as ``||V||_row``, so the layer starts as V. Norms have a floor of
    1e-6: rows may be all zero. Stored bytes: ``b (r (m + n) + m)``.

    Source: Liu et al., DoRA, arXiv 2402.09353.
    """

    dtype: str = knob(
        "float32", Values(("float32", "float16", "bfloat16")), help="storage format of the adapter"
    )

    additive = False  # its rows are divided by the norm of base and delta together

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        ranks = {name: (start.rank, start.alpha) for name, start in starts.items()}
        peft_bridge.inject(model, ranks, use_dora=True)
        peft_bridge.set_factors(model, starts)
        for name in starts:
            peft_bridge.reset_magnitude(model, name)

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        names = list(layers)
        magnitudes = {
            f"{name}.magnitude": peft_bridge.magnitude_module(model, name).weight for name in names
        }
        return peft_bridge.named(model, names) | magnitudes

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        magnitudes = {
            f"{name}.magnitude": Slot(DTYPES[self.dtype], (shape[0],), "adapter")
            for name, (shape, _) in layers.items()
        }
        return super().layout(layers) | magnitudes

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`."""
        peft_bridge.inject(model, layers, use_dora=True)
        for name in layers:
            peft_bridge.reset_magnitude(model, name)
        peft_bridge.copy_stored(self.parameters(model, layers), tensors)

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + m``: the row norms are computed once."""
        return super().macs(shape, rank) + shape[0]

    def nominal_bits(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + m`` values in the bits of their dtype."""
        return super().nominal_bits(shape, rank) + 8 * DTYPES[self.dtype].itemsize * shape[0]
