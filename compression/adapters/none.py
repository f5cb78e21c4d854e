"""No adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart
from compression.methods.base import Shape, Slot


@ADAPTERS.register("none")
class NoAdapter(Adapter):
    """Nothing is trained: the compressed model as it is."""

    ranked = scaled = False

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """Leave the model alone."""

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """None."""
        return {}

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """Nothing is stored."""
        return {}

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Leave the model alone."""

    def macs(self, shape: Shape, rank: int) -> int:
        """None."""
        return 0
