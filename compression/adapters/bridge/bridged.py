"""PEFT's adapters behind the adapter contract: one bridge, a row for each.

Some of PEFT's methods are left out. osf takes the base weight apart and trains a part of it, which
undoes the compression. frod replaces the base by U (S + L) V^T with U and V as large as it, from
decompositions that do not come out bit for bit everywhere, so that more than the dense weight would
be stored. The shapes of adamss follow from clusters of the base's values, and no layout can tell
them from the shape of a layer. Prompt and prefix methods (prompt, p, prefix and multitask prompt
tuning, cpt, adaption_prompt, cartridge) and trainable_tokens adapt the inputs of language models,
not layers; xlora, poly and shadow mix adapters that are there already.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression import philox
from compression.adapters.base import Adapter, AdapterStart
from compression.adapters.bridge.peft_layers import (
    PEFT_NAME,
    held,
    oddities,
    suffix_of,
    wrap,
    wrap_shapes,
)
from compression.kinds import bare, kind_of
from compression.methods.base import Method, Shape, Slot
from compression.precision import DTYPES
from compression.registry import InvalidSetting, Values, knob

__all__ = ["BASIS", "PEFT_NAME", "Bridged", "Fill"]

BASIS = "basis"
"""Slot of the checksum over what is rebuilt from the seed."""
Fill = Callable[[str, Tensor, Shape], Tensor]
"""New values of a frozen random tensor, from the name of its stream and its layer's shape."""


@dataclass(frozen=True)
class Bridged(Adapter):
    """An adapter of PEFT's: the name of its type, its arguments, and what of it is stored.

    Trained in float32, also on a base in half precision, stored in ``dtype``. What PEFT draws at
    random and freezes is ``seeded``: filled from our own generator instead, rebuilt when it is
    loaded, and checked by 8 stored bytes. What else it freezes but cannot rebuild is ``kept``:
    stored, and counted.
    """

    dtype: str = knob(
        "float32", Values(("float32", "float16", "bfloat16")), help="storage format of the adapter"
    )

    peft_type: ClassVar[str]
    shared: ClassVar[bool] = False
    """Whether layers share tensors: they all get one rank then, which is not clamped."""
    seeded: ClassVar[Mapping[str, Fill]] = {}
    """Frozen random tensors by PEFT's attribute, and what fills them."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Frozen tensors that are stored, by PEFT's attribute."""
    derived: ClassVar[tuple[str, ...]] = ()
    """Frozen tensors that are computed from those, by PEFT's attribute."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Parameters of PEFT's that are neither trained nor needed, by suffix."""
    asks_peft: ClassVar[bool] = True
    """Whether PEFT's layers are cheap enough to be made, empty, to see what it says of them."""
    shares_basis: ClassVar[bool] = True
    """Whether layers share what is rebuilt, where they share tensors at all."""
    overlooked: ClassVar[frozenset[str]] = frozenset()
    """Settings of a Conv2d that PEFT's layer does not heed: layers that have them are refused."""
    kinds = frozenset({"linear"})

    @abstractmethod
    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """Of PEFT's config, but for the target modules."""

    def fills(self) -> Mapping[str, Fill]:
        """What is rebuilt from the seed, by PEFT's attribute: by default :attr:`seeded`."""
        return self.seeded

    def witnesses(self, wrapped: nn.Module) -> list[Tensor]:
        """What PEFT's code makes of itself, and another version might otherwise: by default none.

        Under the checksum, together with what is rebuilt from the seed.
        """
        return []

    def making(self) -> AbstractContextManager[Any]:
        """Around PEFT's making of its layers: by default nothing."""
        return nullcontext()

    def mend(self, wrapped: nn.Module) -> None:
        """Change what PEFT's new layer has otherwise than it should: by default nothing."""

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """Why it cannot sit on a layer of a weight shape: half sentences; by default none."""
        yield from ()

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: what PEFT itself says of each layer, on empty tensors."""
        wrong = list(super().refusals(layers, rank, methods))
        yield from wrong
        if wrong:
            return
        found = {n: bare(m) for n, m in layers.items() if kind_of(bare(m)) in self.kinds}
        for name, layer in found.items():
            yield from oddities(self.name, name, layer, self.overlooked)
        shapes = {name: tuple(layer.weight.shape) for name, layer in found.items()}
        given = self.ranks(rank, shapes, {})
        for name, shape in shapes.items():
            if given[name] or not self.ranked:  # of rank 0 is no adapter
                for reason in self._reasons(shape, given[name]):
                    yield f"{self.name} cannot take '{name}' ({_form(shape)}): {reason}"

    def _reasons(self, shape: Shape, rank: int) -> list[str]:
        """Our own objections; where there are none, what PEFT says of an empty layer."""
        own = list(self.objections(shape, rank))
        if own or not self.asks_peft:
            return own
        try:
            _template(self, ((shape, rank),))
        except (ValueError, TypeError, NotImplementedError) as error:
            return [str(error)]
        return []

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, Any]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`."""
        if self.shared:
            return dict.fromkeys(shapes, rank)
        return super().ranks(rank, shapes, stats)

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        errors = [
            f"{self.name} cannot take '{name}': {reason}"
            for name, start in starts.items()
            for reason in self.objections(_shape(model.get_submodule(name)), start.rank)
        ]
        if errors:
            raise InvalidSetting(errors)
        self._inject(model, {name: (start.rank, start.alpha) for name, start in starts.items()})

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        modules = {name: model.get_submodule(name) for name in layers}
        return self._tensors(modules) | self._basis(modules)

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        names = list(layers)
        found = {}
        for index, suffix, slot in _template(self, tuple(layers.values())):
            found[f"{names[index]}.{suffix}"] = slot
        return found

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`.

        Raises:
            InvalidSetting: what is rebuilt is not what it was.
        """
        self._inject(model, layers)
        modules = {name: model.get_submodule(name) for name in layers}
        with torch.no_grad():
            for key, tensor in self._tensors(modules).items():
                tensor.copy_(tensors[key].view_as(tensor))
        for key, value in self._basis(modules).items():
            if not torch.equal(value.cpu(), tensors[key].cpu()):
                raise InvalidSetting([f"{key}: what is rebuilt here is not what it was"])

    def _inject(self, model: nn.Module, layers: Mapping[str, tuple[int, float]]) -> None:
        groups: dict[tuple[int, float], list[str]] = {}
        for name, (rank, alpha) in layers.items():
            groups.setdefault((rank, alpha), []).append(name)
        for (rank, alpha), names in groups.items():
            bases = [model.get_submodule(name) for name in names]
            for name, wrapped in zip(names, wrap(self, bases, rank, alpha), strict=True):
                model.set_submodule(name, wrapped)
        modules = {name: model.get_submodule(name) for name in layers}
        self._fill(modules)
        self._basis(modules)

    @torch.no_grad()
    def _fill(self, modules: Mapping[str, nn.Module]) -> None:
        """Put numbers of our own where PEFT drew some of its own."""
        for tensor, fill in self._frozen(modules):
            tensor.copy_(fill(tensor))

    def _frozen(
        self, modules: Mapping[str, nn.Module]
    ) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        """The seeded tensors, shared ones once, each with what fills it."""
        found: dict[int, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        for name, module in modules.items():
            for attribute, fill in self.fills().items():
                tensor = held(module, attribute)
                # Of a basis that all layers share no layer's name is part.
                common = self.shared and self.shares_basis
                stream = attribute if common else f"{name}.{attribute}"
                filled = partial(_drawn, fill, f"{self.name}/{self._seed}/{stream}", _shape(module))
                found.setdefault(id(tensor), (tensor, filled))
        return list(found.values())

    @property
    def _seed(self) -> int:
        return int(getattr(self, "seed", 0))

    def _basis(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The checksum of what is rebuilt, by its key: none, or one.

        Of a large basis it takes long, so it is kept in the first of the layers.
        """
        names = tuple(modules)
        if not names:
            return {}
        first: Any = modules[names[0]]
        known: dict[tuple[str, ...], Tensor] = first.__dict__.setdefault("basis_checksums", {})
        if names not in known and (rebuilt := self._rebuilt(modules)):
            known[names] = philox.checksum(rebuilt)
        return {f"{names[0]}.{BASIS}": known[names]} if names in known else {}

    def _rebuilt(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        """What is not stored, though layers compute with it."""
        seen = [tensor for module in modules.values() for tensor in self.witnesses(module)]
        return [tensor for tensor, _ in self._frozen(modules)] + seen

    def _tensors(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """What is trained, and what is kept, shared tensors once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, module in modules.items():
            for suffix, tensor in self.own_tensors(module):
                found.setdefault(id(tensor), (f"{name}.{suffix}", tensor))
        return dict(found.values())

    def own_tensors(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Trained and kept tensors of a wrapped layer, by suffix."""
        for key, parameter in module.named_parameters():
            if not key.startswith("base_layer.") and (name := suffix_of(key)) not in self.ignored:
                yield name, parameter
        for attribute in self.kept:
            yield attribute.strip("_"), held(module, attribute)


@lru_cache(maxsize=256)
def _template(
    adapter: Bridged, layers: tuple[tuple[Shape, int], ...]
) -> tuple[tuple[int, str, Slot], ...]:
    """What is stored of layers of these shapes: position of the layer, suffix, slot."""
    modules = dict(zip(map(str, range(len(layers))), wrap_shapes(adapter, layers), strict=True))
    found = []
    for key, tensor in adapter._tensors(modules).items():
        position, suffix = key.split(".", 1)
        dtype = DTYPES[adapter.dtype] if tensor.is_floating_point() else tensor.dtype
        found.append((int(position), suffix, Slot(dtype, tuple(tensor.shape), "adapter")))
    if adapter._rebuilt(modules):
        found.append((0, BASIS, Slot(torch.uint8, (8,), "adapter")))
    return tuple(found)


def _drawn(fill: Fill, stream: str, shape: Shape, tensor: Tensor) -> Tensor:
    return fill(stream, tensor, shape)


def _shape(layer: nn.Module) -> Shape:
    weight: Tensor = bare(layer).weight
    return tuple(weight.shape)


def _form(shape: Shape) -> str:
    return "x".join(map(str, shape))
