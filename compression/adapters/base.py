"""The contract of an adapter: a small trainable delta on compressed layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from compression.methods.base import Shape, Slot
from compression.registry import Plugin, Registry


class AdapterStart(NamedTuple):
    """One layer's delta ``B A`` at scale 1, with B (out, rank) and A (rank, in), and its alpha.

    The adapter's own scale is ``alpha / rank``; it is divided out of B, so the delta starts as
    B A whatever alpha is.
    """

    B: Tensor
    A: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.B.shape[1]


class Adapter(Plugin, ABC):
    """Which trainable delta sits on a layer, and how it is stored.

    Layers go by their dotted names in the dense model. An adapter sees all its layers at once, so
    that one which shares tensors between layers fits the same contract.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "conv2d"})
    of_alpha: ClassVar[frozenset[str]] = frozenset()
    """Knobs that say what alpha means: without an alpha they mean nothing."""
    additive: ClassVar[bool] = False
    """Whether the layer is the base plus a linear delta ``scale B A``, whatever the base is."""

    def scale(self, alpha: float | None, rank: int) -> float:
        """What B A is multiplied by; ``alpha`` None asks for 1."""
        return 1.0 if alpha is None else alpha / rank

    @abstractmethod
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """Put the adapter on the named layers, in place, its parameters trainable.

        Raises:
            InvalidSetting: a layer that it cannot sit on, by name.
        """

    @abstractmethod
    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """Its live parameters by ``layer.suffix``: to train, to round, to store."""

    @abstractmethod
    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """Dtype and shape of each stored tensor by ``layer.suffix``, from weight shape and rank."""

    @abstractmethod
    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Attach with stored tensors: ``layers`` gives rank and alpha by name."""

    @abstractmethod
    def macs(self, shape: Shape, rank: int) -> int:
        """Multiply-accumulates that it adds for each output position."""

    @abstractmethod
    def nominal_bits(self, shape: Shape, rank: int) -> int:
        """Bits of its values, as published tables count."""


ADAPTERS: Registry[Adapter] = Registry("adapter", Adapter)
