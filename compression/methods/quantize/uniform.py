"""Integers on a uniform grid: how they are stored, whoever chose them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.methods.base import Method, Shape, Slot
from compression.methods.levels import Nested
from compression.methods.quantize.grouping import from_groups, group_counts, spread, to_groups
from compression.methods.rows import ROW_STEP
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow, narrow_up
from compression.registry import IntRange, Values, knob

SHARES = tuple(1 - step / 20 for step in range(15))  # of a range, tried where it may be clipped


@dataclass(frozen=True)
class Grid:
    """The points ``step (q - zero)``, q from 0 to ``top``, of each group.

    ``scale`` (m, g) is what is stored, ``step`` the same in float32 and positive everywhere, also
    where all weights are zero; ``zero`` (m, g) holds whole numbers. Entry by entry, after
    :meth:`spread`, ``step`` and ``zero`` are (m, n).
    """

    scale: Tensor
    step: Tensor
    zero: Tensor
    top: int

    def spread(self, shape: Shape, group_size: int) -> Grid:
        """The same grid with step and zero for every entry, as matrices (m, n)."""
        step, zero = (spread(part, shape, group_size) for part in (self.step, self.zero))
        return Grid(self.scale, step, zero, self.top)

    def rows(self, chosen: Tensor, other: Grid) -> Grid:
        """Of this grid the chosen rows (m,), of another one the rest."""
        pairs = ((self.scale, other.scale), (self.step, other.step), (self.zero, other.zero))
        scale, step, zero = (torch.where(chosen[:, None], a, b) for a, b in pairs)
        return Grid(scale, step, zero, self.top)

    def codes(self, values: Tensor) -> Tensor:
        """The nearest codes, as floats."""
        return (torch.round(values / self.step) + self.zero).clamp(0, self.top)

    def points(self, codes: Tensor) -> Tensor:
        """The values that codes stand for."""
        return (codes - self.zero) * self.step


@dataclass(frozen=True)
class UniformGrid(Nested):
    """Codes of ``bits`` bits on a uniform grid per row or per group; see ``rtn`` for the grid."""

    row_step = ROW_STEP
    bits: int = knob(4, IntRange(2, 8), Values((2, 3, 4, 8)), help="bits a weight")
    mode: str = knob(
        "symmetric",
        Values(("symmetric", "asymmetric")),
        Values(("symmetric", "asymmetric")),
        help="grid around zero, or from least to greatest",
    )
    group_size: int = knob(
        0, IntRange(0, 1 << 16), Values((0, 32)), help="entries that share a scale; 0 = a row"
    )
    scale_dtype: str = knob(
        "float16", Values(("float16", "float32")), help="storage format of the scales"
    )

    def grid(self, weight: Tensor, share: Tensor | float = 1.0) -> Grid:
        """The grid that covers each group, or a ``share`` of its range: one number, or (m, g)."""
        grouped = to_groups(weight, self.group_size)
        low, high = (end * share for end in self._span(grouped))
        scale = narrow_up((high - low) / (2**self.bits - 1), DTYPES[self.scale_dtype])
        step = scale.to(torch.float32)
        step = torch.where(step > 0, step, 1.0)  # an all-zero group: every code is its zero
        zero = torch.full_like(step, 2 ** (self.bits - 1))
        if self.mode == "asymmetric":
            zero = torch.round(-low / step)
        return Grid(scale, step, zero, 2**self.bits - 1)

    def fitted_share(self, weight: Tensor, importance: Tensor) -> Tensor:
        """The share (m, g) of each group's range on which rounding to nearest errs least.

        By squared errors times ``importance``, (m, n) or (1, n), of :data:`SHARES`.
        """
        shape, matrix = tuple(weight.shape), weight.flatten(1)
        losses = []
        for share in SHARES:
            grid = self.grid(weight, share).spread(shape, self.group_size)
            error = matrix - grid.points(grid.codes(matrix))
            losses.append(to_groups(error.square() * importance, self.group_size).sum(2))
        return torch.tensor(SHARES, device=weight.device)[torch.stack(losses).argmin(0)]

    def _span(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the range that each group's grid divides."""
        if self.mode == "symmetric":
            largest = grouped.abs().amax(2)
            return -largest, largest
        return grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)

    def packed(self, codes: Tensor, grid: Grid) -> dict[str, Tensor]:
        """The stored tensors of codes (m, n) on a grid."""
        tensors = {"codes": self._pack(codes), "scale": grid.scale}
        if self.mode == "asymmetric":
            tensors["zero"] = self._pack(grid.zero)
        return tensors

    def _pack(self, codes: Tensor) -> Tensor:
        return pack(codes.flatten().to(torch.int64), self.bits)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        rows, groups, _ = group_counts(shape, self.group_size)
        codes = unpack(tensors["codes"], self.bits, math.prod(shape)).view(shape)
        zero: Tensor | int = 2 ** (self.bits - 1)
        if self.mode == "asymmetric":
            zero = unpack(tensors["zero"], self.bits, rows * groups).view(rows, groups, 1)
        steps = to_groups(codes, self.group_size) - zero
        return from_groups(steps * tensors["scale"].to(torch.float32).unsqueeze(2), shape)

    def forms(self, shape: Shape) -> Iterable[Method]:
        """See :meth:`Nested.forms`: fewer bits.

        Source of the idea, with training: Nair et al., Matryoshka Quantization, arXiv 2502.06786.
        """
        return [self.replace(bits=bits) for bits in range(self.bits - 1, 1, -1)]

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`: of every 2^k steps of the grid one, k bits being left out.

        ``q' = round((q - z) / 2^k) + z'`` and ``s' = 2^k s``, with ``z' = ceil(z / 2^k)``: both are
        clamped to the codes there are. The points are some of those that were, so that no entry
        comes nearer to its own as k grows.
        """
        lower: UniformGrid = level  # type: ignore[assignment]
        rows, groups, _ = group_counts(shape, self.group_size)
        step, top = 2 ** (self.bits - lower.bits), 2**lower.bits - 1
        codes = unpack(tensors["codes"], self.bits, math.prod(shape)).view(shape)
        zero = torch.full((rows, groups), 2 ** (self.bits - 1), device=codes.device)
        if self.mode == "asymmetric":
            zero = unpack(tensors["zero"], self.bits, rows * groups).view(rows, groups)
        fewer = torch.div(zero + step - 1, step, rounding_mode="floor").clamp(max=top)
        moved = (to_groups(codes, self.group_size) - zero[..., None]) / step
        coarse = (torch.round(moved) + fewer[..., None]).clamp(0, top)
        found = dict(tensors)  # what is stored beside the grid stays
        found["codes"] = lower._pack(from_groups(coarse, shape))
        found["scale"] = narrow(tensors["scale"].float() * step, tensors["scale"].dtype)
        if self.mode == "asymmetric":
            found["zero"] = lower._pack(fewer)
        return found

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        rows, groups, _ = group_counts(shape, self.group_size)

        def packed(count: int) -> Shape:
            return (packed_bytes(count, self.bits),)

        slots = {
            "codes": Slot(torch.uint8, packed(math.prod(shape)), "base"),
            "scale": Slot(DTYPES[self.scale_dtype], (rows, groups), "scales"),
        }
        if self.mode == "asymmetric":
            slots["zero"] = Slot(torch.uint8, packed(rows * groups), "scales")
        return slots

    def nominal_bits(self, shape: Shape) -> int:
        """``bits`` for each weight."""
        return self.bits * math.prod(shape)
