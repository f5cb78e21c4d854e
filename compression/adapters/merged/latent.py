"""Adapters that end inside the layer's packed weight: a delta on the weight before it is packed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.acting import Acting
from compression.adapters.base import Adapter, AdapterStart, Pair, Shipped
from compression.adapters.wrapping import Wrapper
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods import NoMethod
from compression.methods.base import CompressedWeight, Method, Shape, Slot, matrix_shape
from compression.methods.chain import Chain, split
from compression.registry import InvalidSetting

_STATE = ("lora_A", "lora_B", "latent", "kept")


class _StraightThrough(torch.autograd.Function):
    """The stored weight; its gradient goes to the exact one as it is."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, stored: Tensor) -> Tensor:
        """``stored``, of the shape of ``exact``."""
        return stored.view_as(stored)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient, and none for what was stored."""
        return gradients[0], None


class _Packed(NamedTuple):
    """A packed weight and what it was made of; A and B are None without the delta."""

    latent: tuple[int, torch.device]
    kept: int
    A: Tensor | None
    B: Tensor | None
    packed: CompressedWeight
    weight: Tensor


class LatentLayer(Wrapper, ABC):
    """``y = P(L + s B A) x + b``: P packs, L is the ``latent`` weight in float32, B A the delta.

    ``lora_A`` (r, n) and ``lora_B`` (m, r) are matrices whatever the layer's shape (m, ...) is.
    ``kept`` () is how many values P keeps, where that can be set (``Method.density``), else 0. The
    gradient of P is taken to be the identity. Without gradients P works once, until something has
    changed.
    """

    def __init__(self, base: nn.Module, latent: Tensor, rank: int, scale: float) -> None:
        """Around a Linear or Conv2d: A random as LoRA has it, B 0. ``latent`` is copied."""
        super().__init__(base)
        rows, columns = matrix_shape(tuple(latent.shape))
        options: Any = {"device": latent.device, "dtype": torch.float32}
        self.scale = scale
        self.lora_A = nn.Parameter(torch.empty(rank, columns, **options))
        self.lora_B = nn.Parameter(torch.zeros(rows, rank, **options))
        nn.init.uniform_(self.lora_A, -1 / math.sqrt(columns), 1 / math.sqrt(columns))
        self.latent: Tensor
        self.register_buffer("latent", latent.detach().to(torch.float32, copy=True))
        self.kept: Tensor
        kept = torch.tensor(self.own_kept(), dtype=torch.int64, device=latent.device)
        self.register_buffer("kept", kept)
        self.folds = 0
        self._packed: dict[bool, _Packed] = {}

    @property
    def own(self) -> Method:
        """The layer's method, resolved."""
        packed = packed_of(self.base_layer)
        return NoMethod() if packed is None else packed.method

    def own_kept(self) -> int:
        """How many values the layer's method keeps, if that can be set."""
        return 0

    @abstractmethod
    def pack(self, weight: Tensor) -> CompressedWeight:
        """The packed form of a weight, float32 in the layer's shape."""

    def delta(self) -> Tensor:
        """``s B A`` in the layer's shape."""
        return (self.scale * self.lora_B @ self.lora_A).view_as(self.latent)

    def exact(self) -> Tensor:
        """The weight that is packed: in float32, whatever training computes in."""
        with torch.autocast(self.latent.device.type, enabled=False):
            return self.latent + self.delta()

    def packed(self, changed: bool = True) -> CompressedWeight:
        """What is stored of the weight, with or without the delta."""
        return self._kept(changed).packed

    def forward(self, x: Tensor) -> Tensor:
        """The layer with the weight that would be stored."""
        base: Any = self.base_layer
        weight = self._weight()
        if isinstance(base, nn.Linear):
            return F.linear(x, weight, base.bias)
        output: Tensor = base._conv_forward(x, weight, base.bias)
        return output

    def _weight(self) -> Tensor:
        changed = not self._disable_adapters
        learns = self.lora_A.requires_grad or self.lora_B.requires_grad
        if not (changed and learns and torch.is_grad_enabled()):
            return self._kept(changed).weight
        exact, base = self.exact(), bare(self)
        if not torch.isfinite(exact).all():
            return exact.to(base.weight.dtype)  # the loss tells more of it than a method could
        with torch.no_grad():
            stored = self._decoded(self.pack(exact.detach()))
        through: Tensor = _StraightThrough.apply(exact, stored)
        return through.to(base.weight.dtype)

    def _decoded(self, packed: CompressedWeight) -> Tensor:
        return packed.dense().contiguous()

    def _kept(self, changed: bool) -> _Packed:
        """The packed weight as it is now, made anew only if something has changed."""
        # Of the factors the values are compared: fused optimizers leave version counters alone.
        factors = (self.lora_A, self.lora_B) if changed else (None, None)
        latent, kept = (self.latent._version, self.latent.device), int(self.kept)
        found = self._packed.get(changed)
        if found and found.latent == latent and found.kept == kept:
            if not changed or all(map(_equal, (found.A, found.B), factors)):
                return found
        # Within inference mode the weight would be of no use to a training after it.
        with torch.inference_mode(False), torch.no_grad():
            exact = self.exact() if changed else self.latent
            packed = self.pack(exact)
            weight = self._decoded(packed).to(bare(self).weight.dtype)
            a, b = (None if factor is None else factor.detach().clone() for factor in factors)
            self._packed[changed] = _Packed(latent, kept, a, b, packed, weight)
        return self._packed[changed]

    @torch.no_grad()
    def fold(self, generator: torch.Generator) -> None:
        """The delta goes into the latent weight; B is 0 again and A another one."""
        self.latent.copy_(self.exact())
        self.lora_B.zero_()
        bound = 1 / math.sqrt(self.lora_A.shape[1])
        drawn = torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator)
        self.lora_A.copy_(drawn)
        self.folds += 1

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made anew: copies count the versions of their tensors from 0."""
        return {**self.__dict__, "_packed": {}}


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other.detach())


@dataclass(frozen=True)
class Latent(Adapter):
    """A low-rank delta that is packed with the weight under it: no adapter is stored.

    A and B are trained in float32. The latent weight is among :meth:`parameters`, as it changes
    where deltas are folded into it; checkpoints of a training hold it.
    """

    merges = factored = True
    layer: ClassVar[type[LatentLayer]]
    """What is put around a layer."""

    @abstractmethod
    def problem(self, method: Method) -> str | None:
        """Why it cannot sit on a method that keeps something of the layer."""

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`."""
        yield from super().refusals(layers, rank, methods)
        for method in dict.fromkeys(split(method)[1] for method in methods):
            problem = self.problem(method)
            if method.base_is_gone:
                problem = "which keeps no weight to merge into: use lora"
            if problem:
                yield f"{self.name} cannot sit on method {method.name}, {problem}"

    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`.

        Raises:
            InvalidSetting: a layer whose method it cannot sit on.
        """
        for name, start in starts.items():
            base: Any = model.get_submodule(name)
            packed = packed_of(base)
            method = NoMethod() if packed is None else packed.method
            if errors := list(self.refusals({name: base}, start.rank, [method])):
                raise InvalidSetting(f"{name}: {text}" for text in errors)
            latent = self.latent(base, start)
            layer = self.layer(base, latent.to(base.weight.device), start.rank, self._scale(start))
            model.set_submodule(name, layer)

    @abstractmethod
    def latent(self, base: nn.Module, start: AdapterStart) -> Tensor:
        """The weight that the delta is added to."""

    def _scale(self, start: AdapterStart) -> float:
        return start.alpha / start.rank

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        return {
            f"{name}.{slot}": getattr(layer, slot)
            for name, layer in latent_layers(model, layers).items()
            for slot in _STATE
        }

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: nothing."""
        return {}

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`.

        Raises:
            InvalidSetting: always: no file of ours holds it.
        """
        raise InvalidSetting([f"{self.name}: is merged into the weight, and in no file"])

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`."""
        return Shipped(None, packed=latent_layers(model, [layer])[layer].packed())

    def pairs(self, model: nn.Module, layers: Iterable[str]) -> list[Pair]:
        """See :meth:`Adapter.pairs`: of the delta as it is before packing."""
        found = latent_layers(model, layers).values()
        return [Pair(one.lora_A, one.lora_B, one.scale) for one in found]

    def fold(self, model: nn.Module, layer: str, generator: torch.Generator) -> None:
        """See :meth:`Adapter.fold`: no output changes."""
        latent_layers(model, [layer])[layer].fold(generator)

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting | None:
        """See :meth:`Adapter.acting`: nothing, but it says where the bytes depend on the values."""
        found = latent_layers(model, layers).values()
        return _Resizing() if any(_depends(layer.own) for layer in found) else None

    def macs(self, shape: Shape, rank: int) -> int:
        """None: it is in the weight."""
        return 0


class _Resizing(Acting):
    resizes = True


def _depends(method: Method) -> bool:
    """Whether the bytes of a packed weight depend on its values, as those of ``sign`` on zeros."""
    if isinstance(method, Chain):
        return any(map(_depends, (method.first, *method.then.values())))
    return any(knob.found for knob in type(method).knobs().values())


def latent_layers(model: nn.Module, names: Iterable[str]) -> dict[str, LatentLayer]:
    """The adapted layers by name.

    Raises:
        TypeError: one is something else.
    """
    found = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, LatentLayer):
            raise TypeError(f"'{name}' has no latent weight, it is {type(layer).__name__}")
        found[name] = layer
    return found
