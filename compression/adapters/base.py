"""The contract of an adapter: a small trainable delta on compressed layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from compression.acting import Acting
from compression.kinds import bare, kind_of
from compression.methods.base import CompressedWeight, Method, Shape, Slot
from compression.precision import narrow
from compression.registry import InvalidSetting, Plugin, Registry, naming
from compression.stats import LayerStats, Need


class AdapterStart(NamedTuple):
    """Where one layer's adapter starts: its rank, 0 without one, its alpha, and its delta.

    ``B A`` is the delta at scale 1, B (out, rank) and A (rank, in); None for adapters that start
    at the base as it is. The adapter's own scale is ``alpha / rank``; it is divided out of B, so
    the delta starts as B A whatever alpha is. ``dense`` is the weight before it was compressed, for
    adapters that ask for it.
    """

    rank: int
    alpha: float
    B: Tensor | None = None
    A: Tensor | None = None
    dense: Tensor | None = None


class Pair(NamedTuple):
    """Two trained factors of a delta ``scale * B.flatten(1) @ A.flatten(1)``."""

    A: nn.Parameter
    B: nn.Parameter
    scale: float


@dataclass(frozen=True)
class Shipped:
    """What is stored of an adapted layer as it stands: an adapter, or a weight without one.

    ``packed`` takes the place of the layer's weight where the adapter was merged into it.
    """

    adapter: Adapter | None
    rank: int = 0
    alpha: float = 0.0
    packed: CompressedWeight | None = None


class Adapter(Plugin, ABC):
    """Which trainable delta sits on a layer, and how it is stored.

    Layers go by their dotted names in the dense model. An adapter sees all its layers at once, so
    that one which shares tensors between layers fits the same contract.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "conv2d"})
    ranked: ClassVar[bool] = True
    """Whether it has a rank; else its size follows from its own knobs."""
    scaled: ClassVar[bool] = True
    """Whether its delta is scaled by alpha."""
    takes_delta: ClassVar[bool] = False
    """Whether it can start at a delta B A, and so under any init; else under ``zeros`` alone."""
    additive: ClassVar[bool] = False
    """Whether the layer is the base plus a linear delta ``scale B A``, whatever the base is."""
    factored: ClassVar[bool] = False
    """Whether :meth:`pairs` gives factors A and B, which some optimizers treat apart."""
    of_alpha: ClassVar[frozenset[str]] = frozenset()
    """Knobs that say what alpha means: without an alpha they mean nothing."""
    lr_factor: ClassVar[float] = 1.0
    """Times an optimizer's own range of learning rates, made for LoRA, it is this one's."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What calibration has to compute for it."""
    merges: ClassVar[bool] = False
    """Whether it ends inside the layer's packed weight, and nothing of it is stored."""
    by_layer: ClassVar[bool] = True
    """Whether it can be switched off on one layer, or frozen there, and left on on the others."""
    of_base: ClassVar[bool] = False
    """Whether it changes what the base puts out, or reads its weight: a base must be there."""

    @property
    def settled_at(self) -> float:
        """The share of a training after which what is stored has its final form."""
        return 0.0

    def scale(self, alpha: float | None, rank: int) -> float:
        """What B A is multiplied by; ``alpha`` None asks for 1."""
        return 1.0 if alpha is None else alpha / rank

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """Why it cannot sit on these layers at this rank, under these methods: a sentence each.

        As far as the architecture tells; values may be on the device ``meta``. By default: layers
        of kinds that it does not take, and methods that leave no base to one of it.
        """
        for name, layer in layers.items():
            if (kind := kind_of(bare(layer))) != "embedding" and kind not in self.kinds:
                yield f"{self.name} cannot take '{name}', a layer of type {type(layer).__name__}"
        for method in dict.fromkeys(methods):
            if self.of_base and method.base_is_gone:
                yield f"{self.name} changes the base, of which {method.name} leaves nothing"

    def model_refusals(self, model: nn.Module) -> Iterator[str]:
        """Why it cannot work in this model, whatever its layers: a sentence each; none by default.

        As far as the architecture tells; values may be on the device ``meta``.
        """
        yield from ()

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """The rank of each layer, in model order, where ``rank`` is asked for; 0 is no adapter.

        By default the same for all, clamped to min(out, in).
        """
        return {name: min(rank, shape[0], prod(shape[1:])) for name, shape in shapes.items()}

    def allocate(
        self, rank: int, weights: Mapping[str, Tensor], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """:meth:`ranks` by what is known of the layers: their dense weights, and calibration.

        By default as the shapes alone say.

        Raises:
            InvalidSetting: calibration that it needs is not there.
        """
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        return self.ranks(rank, shapes, stats)

    @abstractmethod
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """Put the adapter on the named layers, in place, its parameters trainable.

        Raises:
            InvalidSetting: a layer that it cannot sit on, by name.
        """

    @abstractmethod
    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """Its live tensors by ``layer.suffix``, all that training may change: to keep, to store.

        One that several layers share is there once, under the first of them.
        """

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

    def nominal_bits(self, layers: Mapping[str, tuple[Shape, int]]) -> int:
        """Bits of its values, as published tables count: by default of all that is stored."""
        return sum(8 * slot.nbytes for slot in self.layout(layers).values())

    @torch.no_grad()
    def settle(self, model: nn.Module, layers: Mapping[str, tuple[Shape, int]]) -> None:
        """Change its live tensors, in place, to the values that are stored.

        By default they are rounded to the dtypes of the layout.
        """
        live = self.parameters(model, layers)
        for key, slot in self.layout(layers).items():
            if slot.dtype != live[key].dtype:
                with naming(key):
                    live[key].copy_(narrow(live[key].detach(), slot.dtype))

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """What is stored of a layer, once settled; ``own`` is all of it, with rank and alpha."""
        return own

    def stored(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of the layers' shipped form, settled, by ``layer.suffix``."""
        return self.parameters(model, layers)

    def delta(self, model: nn.Module, layer: str) -> Tensor:
        """What an additive one adds to a layer's weight, (m, n), at full precision.

        Raises:
            NotImplementedError: it is not additive.
        """
        raise NotImplementedError(f"{self.name} is no sum of base and delta")

    def pairs(self, model: nn.Module, layers: Iterable[str]) -> list[Pair]:
        """The factors A and B that are trained, where it has such; none by default."""
        return []

    def fold(self, model: nn.Module, layer: str, generator: torch.Generator) -> None:
        """Add a layer's delta to the weight under it, and begin at no delta with another A.

        Raises:
            InvalidSetting: that weight is not its own to change; only those that merge have one.
        """
        raise InvalidSetting([f"{self.name}: has no weight of its own to fold '{layer}' into"])

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting | None:
        """What it does of itself while it is trained, if anything."""
        return None


ADAPTERS: Registry[Adapter] = Registry("adapter", Adapter)
