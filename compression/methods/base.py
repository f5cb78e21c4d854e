"""The contract of a compression method, and a weight in its packed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from compression.calibration import Calibration
from compression.edits import Edit
from compression.kinds import EVERY_LAYER, bare, kind_of
from compression.methods.form import Part, RankLimit, Shape, Slot, matrix_shape
from compression.methods.rows import cut, in_blocks
from compression.registry import InvalidSetting, Plugin, Registry
from compression.stats import LayerStats, Need

__all__ = [
    "METHODS",
    "CompressedWeight",
    "Method",
    "Opened",
    "Part",
    "Plan",
    "RankLimit",
    "Scene",
    "Shape",
    "Slot",
    "matrix_shape",
]


@dataclass(frozen=True)
class Scene:
    """What a plan may look at: the dense model, the layers of its rule, and calibration.

    ``layers`` by full dotted name, ``stats`` of those among them that a plugin of the rule asked
    for; ``calibration`` puts the calibration examples through a model, where there are any.
    Nothing of it may be changed.
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    stats: Mapping[str, LayerStats] = field(default_factory=dict)
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Plan:
    """What a method does to the layers it was given: one method for each, and structure edits.

    The edits of all plans come first; layers that they remove need no method. ``weights`` are new
    dense weights, by layer, of the shapes that the edits leave: put there before the methods work.
    """

    specs: Mapping[str, Method]
    edits: tuple[Edit, ...] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Method(Plugin, ABC):
    """How a weight is stored: a frozen config that packs one weight tensor and reads it back.

    A method sees the full weight W of a layer, (out, in) or (out, in/groups, kh, kw), and treats
    it as the matrix ``W.flatten(1)`` of shape (m, n). ``layout`` is the exact formula of the bytes.
    """

    kinds: ClassVar[frozenset[str]] = EVERY_LAYER
    """Layers that it takes: ``EVERY_LAYER``, or ``WITH_INPUTS`` where it uses their inputs."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What calibration has to compute for it. Not there, ``compress`` refuses."""
    structural: ClassVar[bool] = False
    """Whether it changes the structure and leaves the layers that stay dense."""
    base_is_gone: ClassVar[bool] = False
    """Whether it keeps nothing of W: a layer needs an adapter then, and trains its bias with it."""
    any_shape: ClassVar[bool] = False
    """Whether the method takes a tensor of any shape (biases, norms) into one slot, ``weight``."""
    refills: ClassVar[bool] = False
    """Whether it keeps values at positions, where others can be put later: see :meth:`refill`."""
    common: ClassVar[frozenset[str]] = frozenset()
    """Slots that all rows need, where the others hold row after row: see :attr:`row_step`."""

    row_step: ClassVar[Any] = 0
    """Rows at whose multiples all slots can be cut; 0 where they don't hold row after row."""

    @property
    def sequential(self) -> bool:
        """Whether its statistics are taken with the layers before it compressed already."""
        return False

    def refusals(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[str]:
        """Why it cannot take these layers, as far as the architecture tells: a sentence each.

        Values may be on the device ``meta``. By default: layers of kinds that it does not take.
        """
        for name, layer in layers.items():
            if kind_of(bare(layer)) not in self.kinds:
                kind = type(bare(layer)).__name__
                yield f"{self.name} cannot take '{name}', a layer of type {kind}"

    def rank_limit(self, shape: Shape) -> RankLimit | None:
        """The rank that is set, beside the one that saves nothing; None where there is no such."""
        return None

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """How many values it keeps, and of how many; None where :meth:`keeping` cannot set that."""
        return None

    def keeping(self, count: int) -> Method:
        """The same, resolved, with another first number of :meth:`density`, below the second."""
        return self

    def plan(self, scene: Scene) -> Plan:
        """Decide over all matched layers together; by default each layer is on its own."""
        return Plan(dict.fromkeys(scene.layers, self))

    @property
    def may_go_first(self) -> bool:
        """Whether it leaves something for a next method: slots, or layers that stay dense."""
        kind = type(self)
        return kind.inner is not Method.inner or self.structural

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """Slots of floating-point values that a next method in a chain may store instead.

        By name, each with the (rows, columns) that it is a matrix of: factors, values kept. It may
        have more cells than values, with zeros at the end. Called on the resolved method. None,
        where nothing of the form is left in floating point.
        """
        return {}

    @final
    def compress(self, weight: Tensor, stats: LayerStats | None = None) -> CompressedWeight:
        """Pack ``weight``, which is left as it is.

        Returns:
            The packed weight under the *resolved* method (svd: energy becomes rank).

        Raises:
            InvalidSetting: the weight is not finite, is empty, or does not suit the settings, or
                calibration that the method needs is not there.
        """
        if not self.any_shape and (weight.ndim < 2 or not weight.numel()):
            raise InvalidSetting([f"{self.name}: cannot take a weight of {tuple(weight.shape)}"])
        if not torch.isfinite(weight).all():
            raise InvalidSetting([f"{self.name}: the weight holds NaN or infinity"])
        known = stats or LayerStats()
        if missing := [need for need in sorted(self.needs) if not known.has(need)]:
            what = ", ".join(missing)
            raise InvalidSetting([f"{self.name}: needs calibration, and has none of: {what}"])
        values = weight.detach().to(torch.float32)
        method, tensors = self.encode(values, stats)
        return CompressedWeight(method, tuple(weight.shape), tensors)

    @abstractmethod
    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """The resolved method and its packed tensors, none of which shares memory with W."""

    def refill(
        self, tensors: Mapping[str, Tensor], weight: Tensor
    ) -> tuple[Method, dict[str, Tensor]]:
        """As :meth:`encode`, with the values kept where ``tensors`` have some.

        Called on the resolved method, whose tensors they are.

        Raises:
            InvalidSetting: what it stores are not values at positions.
        """
        raise InvalidSetting([f"{self.name}: stores no values at positions, to put others there"])

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """The weight that the packed tensors stand for: float32 of ``shape``."""

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of :meth:`decode`: alone where the form allows, else of all.

        A product of factors may be rounded otherwise than the same rows of the whole one.
        """
        if not self.row_step:
            return self.decode(tensors, shape)[start:stop]
        first, own = cut(self, tensors, shape, start, stop)
        return self.decode(own, (stop - first, *shape[1:]))[start - first :]

    def opened(self, tensors: Mapping[str, Tensor], shape: Shape) -> Opened:
        """What :meth:`rows` reads many times, and the method to read it: itself, but for chains."""
        return self, tensors

    @abstractmethod
    def layout(self, shape: Shape) -> dict[str, Slot]:
        """Every packed tensor by name."""

    @abstractmethod
    def nominal_bits(self, shape: Shape) -> int:
        """Bits of the values alone, without scales, indices or headers."""

    def macs(self, shape: Shape) -> int:
        """Multiply-accumulates for each output position of the layer."""
        return math.prod(shape)

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """``x @ W.T`` for x (..., n): by the dense weight unless the form allows less work."""
        return x @ self.decode(tensors, shape).flatten(1).T


class CompressedWeight(nn.Module):
    """The packed tensors of one weight, and the method that reads them.

    The tensors are buffers, so ``state_dict`` is the packed state. Their dtypes are part of the
    format: ``half()`` and the like move them but do not convert them.

    Args:
        method: resolved, so that its layout is known.
        shape: of the dense weight, (out, in) or (out, in/groups, kh, kw).
        tensors: by slot name, exactly those of ``method.layout(shape)``.

    Raises:
        ValueError: a tensor is missing, unexpected, or of the wrong dtype or shape.
    """

    def __init__(
        self, method: Method, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.method, self.shape = method, tuple(shape)
        layout = method.layout(self.shape)
        if problem := _mismatch(layout, tensors):
            raise ValueError(f"{method.name}: {problem}")
        for slot in layout:
            self.register_buffer(slot, tensors[slot])

    def state(self) -> dict[str, Tensor]:
        """The packed tensors by slot name: what is saved and what is counted."""
        return dict(self._buffers)  # type: ignore[arg-type]

    def dense(self) -> Tensor:
        """The decoded weight, float32, in :attr:`shape`."""
        return in_blocks(self.method, self.state(), self.shape)

    def dense_rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of :meth:`dense`."""
        method, tensors = self.method.opened(self.state(), self.shape)
        return method.rows(tensors, self.shape, start, stop)

    def refilled(self, weight: Tensor) -> CompressedWeight:
        """Another weight's values at the positions of this one's: see :meth:`Method.refill`."""
        method, tensors = self.method.refill(self.state(), weight.detach().to(torch.float32))
        return CompressedWeight(method, self.shape, tensors)

    def linear(self, x: Tensor) -> Tensor:
        """``x @ W.T`` for x (..., n) and W viewed as a matrix (m, n), from the packed tensors."""
        return self.method.linear(x, self.state(), self.shape)

    def macs(self) -> int:
        """Multiply-accumulates for each output position."""
        return self.method.macs(self.shape)

    def nominal_bits(self) -> int:
        """Bits of the values alone, as published tables count."""
        return self.method.nominal_bits(self.shape)

    def stored_bytes(self) -> int:
        """Bytes of all packed tensors."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def extra_repr(self) -> str:
        """Method and shape."""
        return f"{self.method}, {'x'.join(map(str, self.shape))}, {self.stored_bytes()} bytes"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedWeight:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self


def _mismatch(layout: Mapping[str, Slot], tensors: Mapping[str, Tensor]) -> str | None:
    for slot in [*layout, *tensors]:
        if slot not in tensors:
            return f"tensor '{slot}' is missing"
        if slot not in layout:
            return f"tensor '{slot}' is not one of {', '.join(layout)}"
        expected, got = layout[slot], tensors[slot]
        if (got.dtype, tuple(got.shape)) != (expected.dtype, expected.shape):
            return f"tensor '{slot}' is {got.dtype} {tuple(got.shape)}, expected {expected}"
    return None


Opened = tuple[Method, Mapping[str, Tensor]]
METHODS: Registry[Method] = Registry("method", Method)
