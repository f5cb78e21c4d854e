"""What a packed weight is in terms that other runtimes share: grids, tables, products, sums.

A form stands for the matrix ``W.flatten(1)`` (m, n) of a layer. It says nothing of any runtime;
each exporter writes the forms that its own has operators for. :func:`form_of` takes methods apart
by their class; a method without an entry has no form and is written dense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from compression.methods import ActivationAware, Cast, Chain, HalfQuadratic, Int1, Method, Ternary
from compression.methods.base import CompressedWeight, Shape, matrix_shape
from compression.methods.low_rank.factors import Factors
from compression.methods.quantize.codebook import Codebook
from compression.methods.quantize.grouping import group_counts, spread
from compression.methods.quantize.uniform import UniformGrid
from compression.packing import unpack, unpack_trits

NEAR = 1e-6
"""How far a form may be from the decoded weight, in parts of its largest entry."""


@dataclass(frozen=True)
class Plain:
    """Values (m, n) as they are stored: float16, bfloat16 or float32."""

    values: Tensor

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        return self.values.float()


@dataclass(frozen=True)
class Grid:
    """``scale (code - zero)``, or ``scale code + offset``, by groups of a row's entries.

    ``codes`` (m, n) uint8 below ``2**bits``; ``scale`` (m, g), ``offset`` (m, g) or None. ``zero``
    is (m, g) uint8, or one number for all; without meaning where there is an offset.
    """

    bits: int
    codes: Tensor
    scale: Tensor
    size: int
    zero: Tensor | float
    offset: Tensor | None = None

    @property
    def symmetric(self) -> bool:
        """Whether the zero is the middle code everywhere."""
        middle = 2 ** (self.bits - 1)
        return self.offset is None and not isinstance(self.zero, Tensor) and self.zero == middle

    @property
    def zeros(self) -> Tensor:
        """The zero of each group, (m, g) uint8, where it is a code."""
        if isinstance(self.zero, Tensor):
            return self.zero
        return torch.full(self.scale.shape, int(self.zero), dtype=torch.uint8)

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        codes = self.codes.float()
        if self.offset is not None:
            return codes * self.spread(self.scale) + self.spread(self.offset)
        zero = self.spread(self.zero) if isinstance(self.zero, Tensor) else self.zero
        return (codes - zero) * self.spread(self.scale)

    def spread(self, values: Tensor) -> Tensor:
        """One value a group (m, g) repeated over the entries, (m, n) float32."""
        return spread(values.float(), tuple(self.codes.shape), self.size)


@dataclass(frozen=True)
class Lookup:
    """``table[code] * scale`` by groups: ``codes`` (m, n) uint8 of 4 bits, ``scale`` (m, g)."""

    table: Tensor
    codes: Tensor
    scale: Tensor
    size: int

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        scales = spread(self.scale.float(), tuple(self.codes.shape), self.size)
        return self.table[self.codes.long()] * scales


@dataclass(frozen=True)
class Columns:
    """Another form with each column divided by a number: ``divisor`` (n,)."""

    inner: Form
    divisor: Tensor

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        return self.inner.dense() / self.divisor.float()


@dataclass(frozen=True)
class Product:
    """``left @ right``, forms of (m, r) and (r, n)."""

    left: Form
    right: Form

    @property
    def rank(self) -> int:
        """The length of what is summed over, r."""
        return len(self.right.dense())

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        return self.left.dense() @ self.right.dense()


@dataclass(frozen=True)
class Sum:
    """The sum of forms of one shape."""

    parts: tuple[Form, ...]

    def dense(self) -> Tensor:
        """The matrix (m, n), float32."""
        return torch.stack([part.dense() for part in self.parts]).sum(0)


Form = Plain | Grid | Lookup | Columns | Product | Sum


def form_of(packed: CompressedWeight) -> Form | None:
    """The form of a packed weight; None where its method has none.

    What a form stands for is held against the decoded weight, so that a method which reads its
    tensors in a way of its own is not mistaken for the one that it derives from.
    """
    form = _form(packed.method, packed.state(), packed.shape)
    if form is None:
        return None
    decoded, matrix = packed.dense().flatten(1), form.dense()
    if matrix.shape != decoded.shape:
        return None
    gap, largest = (matrix - decoded).abs().max(), decoded.abs().max()
    return form if gap <= NEAR * largest else None


@singledispatch
def _form(method: Method, tensors: Mapping[str, Tensor], shape: Shape) -> Form | None:
    return None


@_form.register
def _(method: Cast, tensors: Mapping[str, Tensor], shape: Shape) -> Form | None:
    return Plain(tensors["weight"].flatten(1))


@_form.register
def _grid(method: UniformGrid, tensors: Mapping[str, Tensor], shape: Shape) -> Grid:
    rows, groups, size = group_counts(shape, method.group_size)
    zero: Tensor | float = 2.0 ** (method.bits - 1)
    if "zero" in tensors:
        zero = unpack(tensors["zero"], method.bits, rows * groups).view(rows, groups).byte()
    codes = _codes(tensors["codes"], method.bits, shape)
    return Grid(method.bits, codes, tensors["scale"], size, zero)


@_form.register
def _(method: ActivationAware, tensors: Mapping[str, Tensor], shape: Shape) -> Form:
    grid = _grid(method, tensors, shape)
    return Columns(grid, tensors["channels"]) if "channels" in tensors else grid


@_form.register
def _(method: HalfQuadratic, tensors: Mapping[str, Tensor], shape: Shape) -> Grid:
    size = group_counts(shape, method.group_size)[2]
    codes = _codes(tensors["codes"], method.bits, shape)
    # A group of equal weights has scale 0 and codes 0: any other scale says the same.
    scale = torch.where(tensors["scale"] > 0, tensors["scale"], 1)
    return Grid(method.bits, codes, scale, size, 0.0, tensors["offset"])


@_form.register
def _(method: Int1, tensors: Mapping[str, Tensor], shape: Shape) -> Form | None:
    size = group_counts(shape, method.group_size if method.scale == "group" else 0)[2]
    rows, passes = shape[0], method.passes
    scales = tensors["scale"] if "scale" in tensors else torch.ones(rows, 1, dtype=torch.float16)
    if scales.abs().max() > torch.finfo(scales.dtype).max / 2:
        scales = scales.float()
    parts = zip(tensors["signs"].chunk(passes), scales.chunk(passes), strict=True)
    grids = [Grid(1, _codes(signs, 1, shape), 2 * scale, size, 0.5) for signs, scale in parts]
    return grids[0] if passes == 1 else Sum(tuple(grids))


@_form.register
def _(method: Ternary, tensors: Mapping[str, Tensor], shape: Shape) -> Grid:
    codes = unpack_trits(tensors["trits"], math.prod(shape)).view(matrix_shape(shape))
    return Grid(2, codes, tensors["scale"], group_counts(shape, method.group_size)[2], 1.0)


@_form.register
def _(method: Codebook, tensors: Mapping[str, Tensor], shape: Shape) -> Lookup:
    table = method.table()
    codes = _codes(tensors["codes"], 4, shape).clamp(max=len(table) - 1)
    scales = method._scales(tensors, shape)
    half = scales.half()
    scales = half if torch.equal(half.float(), scales) else scales
    return Lookup(table, codes, scales, group_counts(shape, method.group_size)[2])


@_form.register
def _(method: Factors, tensors: Mapping[str, Tensor], shape: Shape) -> Form | None:
    if not _is_pair(method, shape):
        return None
    return Product(Plain(tensors["left"]), Plain(tensors["right"]))


@_form.register
def _(method: Chain, tensors: Mapping[str, Tensor], shape: Shape) -> Form | None:
    """Of a pair of factors only: each in the form that the next method gives it."""
    if not _is_pair(method.first, shape):
        return None
    slots = method.slots(tensors, shape)
    left, right = (form_of(slots[name]) for name in ("left", "right"))
    return None if left is None or right is None else Product(left, right)


def _is_pair(method: Method, shape: Shape) -> bool:
    """Whether it stores two matrices, left and right, and nothing else."""
    slots = method.layout(shape) if isinstance(method, Factors) else {}
    return set(slots) == {"left", "right"} and all(len(s.shape) == 2 for s in slots.values())


def _codes(packed: Tensor, bits: int, shape: Shape) -> Tensor:
    return unpack(packed, bits, math.prod(shape)).view(matrix_shape(shape)).byte()
