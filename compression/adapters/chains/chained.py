"""Adapters whose delta is a sum of chains of matrices, ``scale M_k ... M_1``: one wrapper for all.

On a convolution M_1 is a kernel of the layer's own size, stride and padding with as many output
channels as M_1 has rows, and the others are 1x1. A vector in a chain is a diagonal matrix.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.adapters.base import Adapter, AdapterStart, Shipped
from compression.adapters.bridge.lora import Lora
from compression.adapters.bridge.peft_layers import NO_LORA, odd_settings
from compression.adapters.wrapping import Wrapper
from compression.kinds import bare
from compression.methods.base import Method, Shape, Slot, matrix_shape
from compression.precision import DTYPES, narrow
from compression.registry import Values, knob, naming

Tensors = Mapping[str, Tensor]
_GROUPED = frozenset({"groups"})


class Chain(NamedTuple):
    """``scale M_k ... M_1``; ``matrices`` in the order in which they are applied, M_1 first."""

    scale: float | Tensor
    matrices: tuple[Tensor, ...]


class Chained(Wrapper):
    """A layer and the tensors of its adapter, which says what is computed of them."""

    def __init__(
        self, base: nn.Module, adapter: ChainedAdapter, scale: float, tensors: Tensors
    ) -> None:
        super().__init__(base)
        self.adapter, self.scale = adapter, scale
        for suffix, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(suffix, tensor)
            else:
                self.register_buffer(suffix, tensor)

    def own(self) -> dict[str, Tensor]:
        """The adapter's tensors by suffix."""
        return {**self._parameters, **self._buffers}  # type: ignore[dict-item]

    def forward(self, x: Tensor) -> Tensor:
        """The base alone while adapters are disabled, as in PEFT's layers."""
        if self._disable_adapters:
            base: Tensor = self.base_layer(x)
            return base
        return self.adapter.output(self, x)


@dataclass(frozen=True)
class ChainedAdapter(Adapter):
    """An adapter that says its tensors, where they start, and its chains. Float32 in training."""

    dtype: str = knob(
        "float32", Values(("float32", "float16", "bfloat16")), help="storage format of the adapter"
    )

    trained: ClassVar[frozenset[str]]
    """Suffixes of what is trained; all else is frozen, or follows from the step."""
    shared: ClassVar[frozenset[str]] = frozenset()
    """Suffixes, among the trained, of what layers of one shape and rank hold together."""
    rebuilt: ClassVar[frozenset[str]] = frozenset()
    """Suffixes of what is computed again when a file is loaded, and not stored."""
    stretched: ClassVar[bool] = True
    """Whether it takes convolutions with dilation or without zeros around their inputs."""

    @abstractmethod
    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """Shape of each stored tensor of a layer, by suffix."""

    @abstractmethod
    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """All tensors of a layer at the start; ``weight`` is its base's, decoded, float32."""

    def again(self, name: str, shape: Shape, rank: int, stored: Tensors) -> dict[str, Tensor]:
        """All tensors of a layer, from those that are stored: by default these."""
        return dict(stored)

    @abstractmethod
    def chains(self, layer: Chained) -> list[Chain]:
        """Whose sum is the delta."""

    def output(self, layer: Chained, x: Tensor) -> Tensor:
        """The base's output and that of each chain, added up."""
        base: Tensor = layer.base_layer(x)
        found = base
        for scale, matrices in self.chains(layer):
            found = found + through(layer.base_layer, matrices, x) * scale
        return found.to(base.dtype)

    def lenders(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[tuple[str, str], str]:
        """By layer and suffix, under which layer a shared tensor is: the first of its kind."""
        first: dict[tuple[Shape, int], str] = {}
        for name, kind in layers.items():
            first.setdefault(kind, name)
        return {(n, suffix): first[kind] for n, kind in layers.items() for suffix in self.shared}

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: also grouped convolutions.

        M_1 as a grouped kernel would read a part of the inputs only.
        """
        yield from super().refusals(layers, rank, methods)
        for name, layer in layers.items():
            for what in odd_settings(bare(layer), _GROUPED if self.stretched else NO_LORA):
                yield f"{name}: {self.name} does not take a Conv2d with {what}; leave it out"

    @torch.no_grad()
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`.

        What is frozen and stored is rounded to its storage format here: training sees it so.
        """
        made = {}
        for name, start in starts.items():
            weight = bare(model.get_submodule(name)).weight.detach()
            found = self.begin(name, weight.float(), start)
            stored = self.slots(tuple(weight.shape), start.rank).keys() - self.trained
            for suffix in stored & found.keys():
                with naming(f"{name}.{suffix}"):
                    found[suffix] = narrow(found[suffix], DTYPES[self.dtype]).float()
            made[name] = found
        self._wrap(model, {n: (start.rank, start.alpha) for n, start in starts.items()}, made)

    @torch.no_grad()
    def restore(
        self, model: nn.Module, layers: Mapping[str, tuple[int, float]], tensors: Tensors
    ) -> None:
        """See :meth:`Adapter.restore`."""
        sizes = {
            name: (tuple(bare(model.get_submodule(name)).weight.shape), rank)
            for name, (rank, _) in layers.items()
        }
        lenders, made = self.lenders(sizes), {}
        for name, (shape, rank) in sizes.items():
            stored = {
                suffix: tensors[f"{lenders.get((name, suffix), name)}.{suffix}"].float()
                for suffix in self.slots(shape, rank)
            }
            made[name] = self.again(name, shape, rank, stored)
        self._wrap(model, layers, made)

    def _wrap(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        made: Mapping[str, dict[str, Tensor]],
    ) -> None:
        """Put the layers into wrappers with these tensors; shared ones are those of the lender."""
        bases = {name: model.get_submodule(name) for name in layers}
        sizes = {n: (tuple(bare(bases[n]).weight.shape), rank) for n, (rank, _) in layers.items()}
        lenders = self.lenders(sizes)
        ready: dict[str, dict[str, Tensor]] = {}
        for name, (rank, alpha) in layers.items():
            device, ready[name] = bare(bases[name]).weight.device, {}
            for suffix, tensor in made[name].items():
                lender = lenders.get((name, suffix), name)
                if lender != name:
                    ready[name][suffix] = ready[lender][suffix]
                    continue
                values = tensor.detach().to(device, copy=True).contiguous()
                ready[name][suffix] = nn.Parameter(values) if suffix in self.trained else values
            scale = alpha / rank if self.scaled else 1.0
            model.set_submodule(name, Chained(bases[name], self, scale, ready[name]))

    def parameters(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.parameters`."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name in layers:
            for suffix, tensor in chained(model, name).own().items():
                if suffix not in self.rebuilt:
                    found.setdefault(id(tensor), (f"{name}.{suffix}", tensor))
        return dict(found.values())

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`."""
        lenders = self.lenders(layers)
        return {
            f"{name}.{suffix}": Slot(DTYPES[self.dtype], size, "adapter")
            for name, (shape, rank) in layers.items()
            for suffix, size in self.slots(shape, rank).items()
            if lenders.get((name, suffix), name) == name
        }

    def macs(self, shape: Shape, rank: int) -> int:
        """A multiplication for each entry of each matrix: by default of all that are stored."""
        return sum(math.prod(size) for size in self.slots(shape, rank).values())


@dataclass(frozen=True)
class ShipsLora(ChainedAdapter):
    """An adapter that is a ``lora`` in its file: it computes as that does, once settled."""

    takes_delta = True
    stretched = False

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`: those of a LoRA."""
        rows, columns = matrix_shape(shape)
        return {"lora_A": (rank, columns), "lora_B": (rows, rank)}

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`."""
        return replace(own, adapter=Lora(dtype=self.dtype))


def chained(model: nn.Module, name: str) -> Chained:
    """The wrapper of a layer."""
    found = model.get_submodule(name)
    if not isinstance(found, Chained):
        raise TypeError(f"'{name}' is a {type(found).__name__} without this adapter")
    return found


def through(layer: nn.Module, matrices: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """``M_k ... M_1 x``, where M_1 reads the inputs as the layer does."""
    found = first(layer, matrices[0], x)
    for matrix in matrices[1:]:
        found = further(layer, matrix, found)
    return found


def first(layer: Any, matrix: Tensor, x: Tensor) -> Tensor:
    """``M_1 x`` for M_1 (k, in) with in a multiple of the size of a convolution's kernel."""
    x = x.to(matrix.dtype)
    if isinstance(layer, nn.Conv2d):
        kernel = matrix.reshape(len(matrix), -1, *layer.kernel_size)
        read: Tensor = layer._conv_forward(x, kernel, None)
        return read
    return F.linear(x, matrix)


def further(layer: nn.Module, matrix: Tensor, x: Tensor) -> Tensor:
    """``M x`` for each position of a convolution's output; a vector is a diagonal matrix."""
    if matrix.ndim == 1:
        return x * (matrix[:, None, None] if isinstance(layer, nn.Conv2d) else matrix)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, matrix[:, :, None, None])
    return F.linear(x, matrix)


def random_matrix(rows: int, columns: int) -> Tensor:
    """(rows, columns) uniform in +-1/sqrt(columns), as LoRA starts A, from torch's generator."""
    bound = 1 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound)


def top_svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, rank), s (rank,) and V^T (rank, n) of the largest singular values of W as (m, n)."""
    u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank]
