"""One bit a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.grouping import group_counts, spread, to_groups
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("int1")
class Int1(Method):
    """Signs, one bit each, with an optional scale per row or per group.

    ``W ~ s * sign(W)`` with ``sign(0) = +1``, so there are two values only. The scale
    ``s = mean |w|`` over its row or group minimises ``||W - s sign(W)||_F``; without scales
    s = 1, which is the published int1 of LoRA-Compression.

    Stored bytes: ``ceil(m n / 8) + b m ceil(n / group_size)`` with b bytes a scale; one group a
    row with ``scale=row``, no second term with ``scale=none``.

    Source: Rastegari et al., XNOR-Net, arXiv 1603.05279; catalogue 000 without scales.
    """

    catalogue_id = "000"
    scale: str = knob(
        "row", Values(("none", "row", "group")), Values(("none", "row", "group")), help="s per"
    )
    group_size: int = knob(
        32,
        IntRange(2, 1 << 16),
        Values((16, 32, 64)),
        when={"scale": ("group",)},
        help="entries of a row that share a scale",
    )
    scale_dtype: str = knob(
        "float16",
        Values(("float16", "float32")),
        when={"scale": ("row", "group")},
        help="storage format of the scales",
    )

    @property
    def _size(self) -> int:
        return self.group_size if self.scale == "group" else 0

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        tensors = {"signs": pack((weight.flatten() >= 0).to(torch.uint8), 1)}
        if self.scale != "none":
            grouped = to_groups(weight.abs(), self._size)
            # The last group may be short: its mean is over real entries only.
            counts = to_groups(torch.ones_like(weight[:1]), self._size).sum(2)
            tensors["scale"] = narrow(grouped.sum(2) / counts, DTYPES[self.scale_dtype])
        return self, tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        signs = unpack(tensors["signs"], 1, math.prod(shape)).to(torch.float32) * 2 - 1
        if self.scale == "none":
            return signs.view(shape)
        scales = spread(tensors["scale"].to(torch.float32), shape, self._size)
        return (signs.view(matrix_shape(shape)) * scales).view(shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        slots = {"signs": Slot(torch.uint8, (packed_bytes(math.prod(shape), 1),), "base")}
        if self.scale != "none":
            rows, groups, _ = group_counts(shape, self._size)
            slots["scale"] = Slot(DTYPES[self.scale_dtype], (rows, groups), "scales")
        return slots

    def nominal_bits(self, shape: Shape) -> int:
        """One for each weight."""
        return math.prod(shape)
