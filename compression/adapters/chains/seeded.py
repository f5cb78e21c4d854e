"""Chained adapters with tensors that are rebuilt from a seed, and checked by 8 stored bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression import philox
from compression.adapters.bridge.bridged import BASIS
from compression.adapters.chains.chained import ChainedAdapter, chained
from compression.methods.base import Shape, Slot
from compression.registry import IntRange, InvalidSetting, knob


@dataclass(frozen=True)
class Seeded(ChainedAdapter):
    """An adapter with tensors of a layer that follow from ``seed`` and the layer's name."""

    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of what is drawn at random and frozen")

    @abstractmethod
    def drawn(self, stream: str, shape: Shape, rank: int) -> dict[str, Tensor]:
        """These tensors, by suffix; all of ``stream`` and of philox."""

    def again(
        self, name: str, shape: Shape, rank: int, stored: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.again`: with what is drawn, and a checksum of it."""
        found = self.drawn(f"{self.name}/{self.seed}/{name}", shape, rank)
        return {**stored, **found, BASIS: philox.checksum(list(found.values()))}

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        names = list(layers)
        return super().parameters(model, names) | _checksum(model, names)

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        checksum = Slot(torch.uint8, (8,), "adapter")
        return super().layout(layers) | {f"{name}.{BASIS}": checksum for name in list(layers)[:1]}

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`.

        Raises:
            InvalidSetting: what is drawn is not what it was.
        """
        super().restore(model, layers, tensors)
        for key, value in _checksum(model, list(layers)).items():
            if not torch.equal(value.cpu(), tensors[key].cpu()):
                raise InvalidSetting([f"{key}: what is rebuilt from the seed is not what it was"])


def _checksum(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """One for all layers, of those that each has kept."""
    parts = [chained(model, name).own()[BASIS] for name in names]
    return {f"{names[0]}.{BASIS}": philox.checksum(parts)} if names else {}
