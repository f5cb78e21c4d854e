"""LoRA whose ranks can come and go while it is trained: a gate and a mask for each rank."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.acting import Acting
from compression.adapters.base import Adapter, AdapterStart, Pair, Shipped
from compression.adapters.bridge.lora import Lora
from compression.adapters.bridge.peft_layers import NO_LORA, oddities
from compression.adapters.wrapping import Wrapper
from compression.kinds import bare
from compression.methods.base import Method, Shape, Slot, matrix_shape
from compression.registry import Values, knob

_SLOTS = ("lora_A", "lora_B")
_STATE = ("gate", "live", "scale")


class GatedLayer(Wrapper):
    """``y = W x + s B diag(g) A x`` over the live ones of ``most`` ranks.

    ``lora_A`` (most, n) or (most, n / kh kw, kh, kw) is a kernel of the layer's own size,
    ``lora_B`` (m, most) or (m, most, 1, 1) a 1x1 one, ``gate`` (most,), ``live`` (most,) of 0 and
    1, ``scale`` (). Dead ranks are left out of the products, so that a layer that never had them
    computes the same, bit for bit. The order of operations is that of PEFT's LoRA.
    """

    def __init__(self, base: nn.Module, most: int, scale: float, trained_gate: bool) -> None:
        """Around a Linear or Conv2d: A random as LoRA has it, B 0, gates 1, all ranks live."""
        super().__init__(base)
        weight = self.weight
        options: Any = {"device": weight.device, "dtype": torch.float32}
        ones = (1,) * (weight.ndim - 2)
        self.lora_A = nn.Parameter(torch.empty(most, *weight.shape[1:], **options))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], most, *ones, **options))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.gate: Tensor
        gate = torch.ones(most, **options)
        if trained_gate:
            self.gate = nn.Parameter(gate)
        else:
            self.register_buffer("gate", gate)
        self.live: Tensor
        self.register_buffer("live", torch.ones(most, **options))
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale, **options))
        self.asked = most
        """The rank that the layer was asked to have: its share of a budget."""
        self._index: tuple[Tensor, int, Tensor] | None = None

    @property
    def most(self) -> int:
        """How many ranks there is room for."""
        return len(self.live)

    def index(self) -> Tensor:
        """The live ranks, ascending, int64."""
        live, cached = self.live, self._index
        if cached is None or cached[0] is not live or cached[1] != live._version:
            self._index = cached = (live, live._version, live.nonzero().flatten())
        return cached[2]

    def forward(self, x: Tensor) -> Tensor:
        """The base, and the delta of the live ranks."""
        result: Tensor = self.base_layer(x)
        index = self.index()
        if self._disable_adapters or not len(index):
            return result
        a: Tensor = self.lora_A
        b: Tensor = self.lora_B
        gate = self.gate
        if len(index) < self.most:
            a, b = a.index_select(0, index), b.index_select(1, index)
            gate = gate.index_select(0, index)
        delta = self._second(self._first(x.to(a.dtype), a) * gate.view(-1, *b.shape[2:]), b)
        return (result + delta * self.scale).to(result.dtype)

    def _first(self, x: Tensor, a: Tensor) -> Tensor:
        base: Any = self.base_layer
        if a.ndim == 2:
            return F.linear(x, a)
        return F.conv2d(x, a, None, base.stride, base.padding)

    def _second(self, z: Tensor, b: Tensor) -> Tensor:
        return F.linear(z, b) if b.ndim == 2 else F.conv2d(z, b)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """B (m, most) and A (most, n), live views."""
        return self.lora_B.flatten(1), self.lora_A.flatten(1)

    def delta(self) -> Tensor:
        """``s B diag(g) A`` of the live ranks, (m, n)."""
        b, a = self.matrices()
        return self.scale * (b * (self.gate * self.live)) @ a

    def gate_gradient(self) -> Tensor:
        """``g_i dL/dg_i`` (most,), from the gradient of B: ``<B_i, dL/dB_i>``; 0 for dead ranks.

        Minus it is the first-order estimate of what the loss would gain by leaving rank i out.
        """
        if self.lora_B.grad is None:
            return torch.zeros_like(self.live)
        products = (self.lora_B.detach() * self.lora_B.grad).flatten(1)
        return products.sum(0) * self.live

    def with_effect(self) -> Tensor:
        """Whether each rank is live, its gate open and its A not all 0: bool (most,)."""
        return (self.live != 0) & (self.gate != 0) & (self.lora_A.flatten(1) != 0).any(1)

    def folded(self) -> Tensor:
        """B with gates and scale in it, 0 for ranks without effect; in the shape of B."""
        factors = self.gate * self.scale * self.with_effect()
        return self.lora_B * factors.view(1, -1, *self.lora_B.shape[2:])

    @torch.no_grad()
    def settle(self) -> None:
        """Fold gates and scale into B; ranks without effect are dead."""
        folded, effect = self.folded(), self.with_effect()
        self.lora_B.copy_(folded)
        self.live.copy_(effect)
        self.gate.fill_(1.0)
        self.scale.fill_(1.0)


@dataclass(frozen=True)
class Gated(Adapter):
    """A LoRA that chooses its ranks while it is trained; what is stored of a layer is plain LoRA.

    Each layer has room for ``room(rank)`` ranks all along, so that checkpoints keep their shapes.
    The file holds the live ones, gates and scale folded into B, under ``alpha = rank``: their scale
    is exactly 1. A layer with no live rank ships without adapter. Stored bytes: ``b r (m + n)`` at
    the layer's live rank r.
    """

    dtype: str = knob(
        "float32", Values(("float32", "float16", "bfloat16")), help="storage format of the adapter"
    )

    takes_delta = additive = True
    layer: ClassVar[type[GatedLayer]] = GatedLayer
    """What is put around a layer."""
    trained_gate: ClassVar[bool] = False
    """Whether the gates are trained with A and B; else it is ``factored``."""
    roomy: ClassVar[str] = ""
    """The knob that says how many ranks there is room for over the rank asked for; else as many."""

    def room(self, rank: int) -> int:
        """How many ranks a layer has room for, before the clamp to min(m, n)."""
        return int(getattr(self, self.roomy) * rank) if self.roomy else rank

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: what the LoRA that ships cannot take."""
        yield from super().refusals(layers, rank, methods)
        for name, layer in layers.items():
            stored = f"lora, in which {self.name} is stored,"
            yield from oddities(stored, name, bare(layer), NO_LORA)

    @torch.no_grad()
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`: ranks above the start's have B = 0, and so no effect."""
        for name, start in starts.items():
            base: Any = model.get_submodule(name)
            most = self._most(tuple(base.weight.shape), start.rank)
            layer = self.layer(base, most, start.alpha / start.rank, self.trained_gate)
            layer.asked = start.rank
            if start.A is not None and start.B is not None:
                b, a = layer.matrices()
                a[: start.rank] = start.A.to(a)
                b[:, : start.rank] = (start.B / layer.scale.to(start.B)).to(b)
            self.prepare(layer)
            model.set_submodule(name, layer)

    def prepare(self, layer: GatedLayer) -> None:  # noqa: B027
        """Gates and mask at the start, where not all 1."""

    def _most(self, shape: Shape, rank: int) -> int:
        return min(self.room(rank), *matrix_shape(shape))

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        return {
            f"{name}.{slot}": getattr(layer, slot)
            for name, layer in gated_layers(model, layers).items()
            for slot in (*_SLOTS, *_STATE)
        }

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: LoRA's, at all ranks that there is room for."""
        whole = {name: (shape, self._most(shape, rank)) for name, (shape, rank) in layers.items()}
        return Lora(self.dtype).layout(whole)

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`: of settled tensors, at scale 1."""
        self.attach(model, {name: AdapterStart(rank, rank) for name, (rank, _) in layers.items()})
        with torch.no_grad():
            for name, layer in gated_layers(model, layers).items():
                for slot in _SLOTS:
                    live = layer.get_parameter(slot)
                    live.copy_(tensors[f"{name}.{slot}"].view_as(live))
                layer.gate.fill_(1.0)
                layer.live.fill_(1.0)

    @torch.no_grad()
    def settle(self, model: nn.Module, layers: Mapping[str, tuple[Shape, int]]) -> None:
        """See :meth:`Adapter.settle`: gates and scale go into B first."""
        for layer in gated_layers(model, layers).values():
            layer.settle()
        super().settle(model, layers)

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`."""
        rank = int(gated_layers(model, [layer])[layer].with_effect().sum())
        return Shipped(Lora(self.dtype), rank, float(rank)) if rank else Shipped(None)

    def stored(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.stored`."""
        found = {}
        for name, layer in gated_layers(model, layers).items():
            kept = layer.with_effect()
            found[f"{name}.lora_A"] = layer.lora_A.detach()[kept]
            found[f"{name}.lora_B"] = layer.folded().detach()[:, kept]
        return found

    def pairs(self, model: nn.Module, layers: Iterable[str]) -> list[Pair]:
        """See :meth:`Adapter.pairs`: none where a trained gate stands between A and B."""
        if self.trained_gate:
            return []
        found = gated_layers(model, layers).values()
        return [Pair(one.lora_A, one.lora_B, float(one.scale)) for one in found]

    def delta(self, model: nn.Module, layer: str) -> Tensor:
        """See :meth:`Adapter.delta`: of the live ranks, gates in it."""
        return gated_layers(model, [layer])[layer].delta()

    @abstractmethod
    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`: what chooses the ranks."""

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))


def gated_layers(model: nn.Module, names: Iterable[str]) -> dict[str, GatedLayer]:
    """The adapted layers by name.

    Raises:
        TypeError: one is something else.
    """
    found = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, GatedLayer):
            raise TypeError(f"'{name}' has no ranks with gates, it is {type(layer).__name__}")
        found[name] = layer
    return found
