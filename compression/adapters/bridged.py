"""PEFT's adapters behind the adapter contract: one bridge, a row for each.

PEFT is imported inside the functions: it takes seconds. Its walk over a whole model is left out: it
matches names by pattern, switches other adapters off, and fails on a model without parameters. The
target layers go into a holder of their own, PEFT adapts that, and the wrapped layers go back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression import philox
from compression.adapters.base import Adapter, AdapterStart
from compression.kinds import kind_of
from compression.methods.base import Method, Shape, Slot
from compression.precision import DTYPES
from compression.registry import InvalidSetting, Values, knob

PEFT_NAME = "default"
"""What PEFT calls the one adapter of a layer, inside the layer."""
BASIS = "basis"
"""Slot of the checksum over what is rebuilt from the seed."""
Fill = Callable[[str, Tensor], Tensor]
"""New values for a frozen random tensor of PEFT's, from the name of its stream."""


@dataclass(frozen=True)
class Bridged(Adapter):
    """An adapter of PEFT's: the name of its type, its arguments, and what of it is stored.

    Trained in float32, stored in ``dtype``. What PEFT draws at random and freezes is ``seeded``:
    filled from our own generator instead, rebuilt when it is loaded, and checked by 8 stored bytes.
    What else it freezes but cannot rebuild is ``kept``: stored, and counted.
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
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Parameters of PEFT's that are neither trained nor needed, by suffix."""
    kinds = frozenset({"linear"})

    @abstractmethod
    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """Of PEFT's config, but for the target modules."""

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: what PEFT itself says of each layer, on empty tensors."""
        wrong = list(super().refusals(layers, rank, methods))
        yield from wrong
        if wrong:
            return
        found = {n: m for n, m in layers.items() if kind_of(m) in self.kinds}
        shapes = {name: tuple(layer.get_parameter("weight").shape) for name, layer in found.items()}
        ranks = self.ranks(rank, shapes, {})
        for name, shape in shapes.items():
            try:
                _template(self, ((shape, ranks[name]),))
            except (ValueError, TypeError, NotImplementedError) as error:
                yield f"{self.name} cannot take '{name}' ({_form(shape)}): {error}"

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, Any]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`."""
        if self.shared:
            return dict.fromkeys(shapes, rank)
        return super().ranks(rank, shapes, stats)

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
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
            InvalidSetting: what is rebuilt from the seed is not what it was.
        """
        self._inject(model, layers)
        modules = {name: model.get_submodule(name) for name in layers}
        with torch.no_grad():
            for key, tensor in self._tensors(modules).items():
                tensor.copy_(tensors[key].view_as(tensor))
        for key, value in self._basis(modules).items():
            if not torch.equal(value.cpu(), tensors[key].cpu()):
                raise InvalidSetting([f"{key}: what is rebuilt from the seed is not what it was"])

    def _inject(self, model: nn.Module, layers: Mapping[str, tuple[int, float]]) -> None:
        groups: dict[tuple[int, float], list[str]] = {}
        for name, (rank, alpha) in layers.items():
            groups.setdefault((rank, alpha), []).append(name)
        for (rank, alpha), names in groups.items():
            bases = [model.get_submodule(name) for name in names]
            for name, wrapped in zip(names, wrap(self, bases, rank, alpha), strict=True):
                model.set_submodule(name, wrapped)
        self._fill({name: model.get_submodule(name) for name in layers})

    @torch.no_grad()
    def _fill(self, modules: Mapping[str, nn.Module]) -> None:
        """Put numbers of our own where PEFT drew some of its own."""
        for key, (tensor, fill) in self._frozen(modules).items():
            tensor.copy_(fill(key, tensor))

    def _frozen(self, modules: Mapping[str, nn.Module]) -> dict[str, tuple[Tensor, Fill]]:
        """The seeded tensors, shared ones once, by the name of their stream."""
        found: dict[int, tuple[str, Tensor, Fill]] = {}
        for name, module in modules.items():
            for attribute, fill in self.seeded.items():
                tensor = frozen(module, attribute)
                # Of a basis that all layers share no layer's name is part.
                stream = attribute if self.shared else f"{name}.{attribute}"
                found.setdefault(id(tensor), (f"{self.name}/{self._seed}/{stream}", tensor, fill))
        return {stream: (tensor, fill) for stream, tensor, fill in found.values()}

    @property
    def _seed(self) -> int:
        return int(getattr(self, "seed", 0))

    def _basis(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        if not self.seeded or not modules:
            return {}
        rebuilt = [tensor for tensor, _ in self._frozen(modules).values()]
        return {f"{next(iter(modules))}.{BASIS}": philox.checksum(rebuilt)}

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
            yield attribute, frozen(module, attribute)


def suffix_of(key: str) -> str:
    """A parameter's name in the file from its name in PEFT's layer."""
    parts = [part for part in key.split(".") if part != PEFT_NAME]
    return ".".join(parts[:-1] if parts[-1] == "weight" and len(parts) > 1 else parts)


def frozen(module: nn.Module, attribute: str) -> Tensor:
    """A tensor that PEFT keeps by the name of the adapter, in a container or alone."""
    value: Any = getattr(module, attribute)
    tensor: Tensor = value if isinstance(value, Tensor) else value[PEFT_NAME]
    return tensor


def wrap(adapter: Bridged, bases: Sequence[nn.Module], rank: int, alpha: float) -> list[nn.Module]:
    """PEFT's layers around plain ones, at one rank and alpha, base parameters as they were."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils.peft_types import PeftType

    kind, names = PeftType(adapter.peft_type), [f"layer{i}" for i in range(len(bases))]
    make: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    config = make(target_modules=names, **adapter.arguments(rank, alpha))
    holder = nn.ModuleDict(dict(zip(names, bases, strict=True)))
    holder["spare"] = nn.Linear(1, 1)  # PEFT asks the first parameter for its device
    holder["spare"].to(bases[0].weight.device)  # type: ignore[arg-type]
    trained = [(p, p.requires_grad) for base in bases for p in base.parameters()]
    PEFT_TYPE_TO_TUNER_MAPPING[kind](holder, config, PEFT_NAME)
    for parameter, requires_grad in trained:
        parameter.requires_grad_(requires_grad)
    return [holder[n].train(b.training) for n, b in zip(names, bases, strict=True)]


@lru_cache(maxsize=256)
def _template(
    adapter: Bridged, layers: tuple[tuple[Shape, int], ...]
) -> tuple[tuple[int, str, Slot], ...]:
    """What is stored of layers of these shapes: position of the layer, suffix, slot."""
    rng = torch.get_rng_state()
    bases = [_empty(shape) for shape, _ in layers]
    groups: dict[int, list[int]] = {}
    for index, (_, rank) in enumerate(layers):
        groups.setdefault(rank, []).append(index)
    wrapped: dict[int, nn.Module] = {}
    for rank, indices in groups.items():
        made = wrap(adapter, [bases[i] for i in indices], rank, 1.0)
        wrapped |= dict(zip(indices, made, strict=True))
    torch.set_rng_state(rng)  # PEFT draws values that nobody looks at
    modules = {str(index): wrapped[index] for index in range(len(layers))}
    found = []
    for key, tensor in adapter._tensors(modules).items():
        position, suffix = key.split(".", 1)
        dtype = DTYPES[adapter.dtype] if tensor.is_floating_point() else tensor.dtype
        found.append((int(position), suffix, Slot(dtype, tuple(tensor.shape), "adapter")))
    if adapter.seeded and layers:
        found.append((0, BASIS, Slot(torch.uint8, (8,), "adapter")))
    return tuple(found)


def _empty(shape: Shape) -> nn.Module:
    """A layer of a weight shape, whatever its values."""
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    return nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]))


def _form(shape: Shape) -> str:
    return "x".join(map(str, shape))
