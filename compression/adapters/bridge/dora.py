"""Weight-decomposed low-rank adaptation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart
from compression.adapters.bridge.bridged import PEFT_NAME
from compression.adapters.bridge.lora import Lora
from compression.methods.base import Shape, Slot
from compression.precision import DTYPES


@ADAPTERS.register("dora")
class Dora(Lora):
    """DoRA: ``y = g * V x / ||V||_row`` with ``V = W + (alpha / r) B A``; g, B and A trained.

    The magnitude g (out,) starts as ``||V||_row``, so the layer starts as V. Norms have a floor of
    1e-6: rows may be all zero. Stored bytes: ``b (r (m + n) + m)``.

    Source: Liu et al., DoRA, arXiv 2402.09353.
    """

    additive = False  # its rows are divided by the norm of base and delta together
    delta = Adapter.delta

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {**super().arguments(rank, alpha), "use_dora": True}

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        super().attach(model, starts)
        _floor(model, starts)

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`."""
        self._inject(model, layers)
        _floor(model, layers)
        with torch.no_grad():
            for key, parameter in self.parameters(model, layers).items():
                parameter.copy_(tensors[key].view_as(parameter))

    def own_tensors(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See :meth:`Bridged.own_tensors`."""
        for suffix, tensor in super().own_tensors(module):
            yield ("magnitude" if suffix == "lora_magnitude_vector" else suffix), tensor

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        magnitudes = {
            f"{name}.magnitude": Slot(DTYPES[self.dtype], (shape[0],), "adapter")
            for name, (shape, _) in layers.items()
        }
        return super().layout(layers) | magnitudes

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + m``: the row norms are computed once."""
        return super().macs(shape, rank) + shape[0]


def _floor(model: nn.Module, layers: Iterable[str]) -> None:
    """Norms of base + delta at least 1e-6, and the magnitude set to these."""
    from compression.adapters.bridge.peft_dora import install_magnitude

    for name in layers:
        install_magnitude(model.get_submodule(name), PEFT_NAME)
