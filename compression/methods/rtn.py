"""Round to nearest on a uniform grid."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.methods.grouping import from_groups, group_counts, to_groups
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow_up
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("rtn")
class RoundToNearest(Method):
    """Integers of 2 to 8 bits on a uniform grid per row or per group.

    ``W ~ s (q - z)`` with codes q in [0, 2**bits). Symmetric: ``z = 2**(bits-1)`` and
    ``s = max |w| / (2**(bits-1) - 1)``. Asymmetric: the grid spans ``[min(w, 0), max(w, 0)]`` and
    z is stored as a code. Scales are rounded up when stored, so no weight is clipped and the
    error is at most s/2 everywhere.

    Stored bytes: ``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric,
    with ``g = ceil(n / group_size)`` groups a row (1 for group_size 0) and b bytes a scale.
    """

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

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        grouped = to_groups(weight, self.group_size)
        low, high, steps = self._span(grouped)
        scale = narrow_up((high - low) / steps, DTYPES[self.scale_dtype])
        step = scale.to(torch.float32).unsqueeze(2)
        step = torch.where(step > 0, step, 1.0)  # an all-zero group: every code is its zero
        zero = self._zeros(low, step)
        codes = (torch.round(grouped / step) + zero).clamp(0, 2**self.bits - 1)
        tensors = {"codes": self._pack(from_groups(codes, tuple(weight.shape))), "scale": scale}
        if self.mode == "asymmetric":
            tensors["zero"] = self._pack(zero)
        return self, tensors

    def _span(self, grouped: Tensor) -> tuple[Tensor, Tensor, int]:
        """Ends of each group's grid and the number of steps between them."""
        if self.mode == "symmetric":
            largest = grouped.abs().amax(2)
            return -largest, largest, 2**self.bits - 2
        return grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0), 2**self.bits - 1

    def _zeros(self, low: Tensor, step: Tensor) -> Tensor:
        if self.mode == "symmetric":
            return torch.full_like(step, 2 ** (self.bits - 1))
        return torch.round(-low.unsqueeze(2) / step)

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
