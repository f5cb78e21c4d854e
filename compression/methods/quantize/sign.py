"""Signs without a scale, as LoRA-Compression published them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.methods.rows import ROW_STEP
from compression.packing import pack, packed_bytes, unpack, unpack_part
from compression.registry import IntRange, knob
from compression.stats import LayerStats


@METHODS.register("sign")
class Sign(Method):
    """``sign(W)`` with no scale and ``sign(0) = 0``: a published error, to be measured.

    The values are +-1 whatever W's are, so where weights are small the error is many times W
    itself; ``int1`` has a scale. Zeros are a third value, which one bit a weight cannot say: their
    positions are stored, as numbers or as a bitmap, whichever is smaller.

    Stored bytes: ``ceil(m n / 8) + min(4 z, ceil(m n / 8))`` with z zeros in W.

    Source: catalogue 000.
    """

    catalogue_id = "000"
    row_step: ClassVar[Any] = property(lambda self: 0 if self.zeros else ROW_STEP)
    zeros: int = knob(0, IntRange(0, 2**31 - 1), help="zeros in W", found=True)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        flat = weight.flatten()
        nothing = flat == 0
        method: Sign = self.replace(zeros=int(nothing.sum()))
        tensors = {"signs": pack((flat > 0).to(torch.uint8), 1)}
        if method.zeros:
            bitmap = method._is_bitmap(tuple(weight.shape))
            tensors["zeros"] = (
                pack(nothing.to(torch.uint8), 1) if bitmap else nothing.nonzero()[:, 0].int()
            )
        return method, tensors

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        dense = unpack(tensors["signs"], 1, math.prod(shape)) * 2.0 - 1
        if self.zeros and self._is_bitmap(shape):
            dense[unpack(tensors["zeros"], 1, math.prod(shape)) == 1] = 0.0
        elif self.zeros:
            dense[tensors["zeros"].long()] = 0.0
        return dense.view(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: signs, and the zeros among them."""
        if not self.zeros:
            return super().rows(tensors, shape, start, stop)
        first, last = (row * math.prod(shape[1:]) for row in (start, stop))
        values = unpack_part(tensors["signs"], 1, first, last) * 2.0 - 1
        if self._is_bitmap(shape):
            values[unpack_part(tensors["zeros"], 1, first, last) == 1] = 0.0
        else:
            where = tensors["zeros"].long() - first
            values[where[(where >= 0) & (where < last - first)]] = 0.0
        return values.view(-1, *shape[1:])

    def _is_bitmap(self, shape: Shape) -> bool:
        return packed_bytes(math.prod(shape), 1) < 4 * self.zeros

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        signs = Slot(torch.uint8, (packed_bytes(math.prod(shape), 1),), "base")
        if not self.zeros:
            return {"signs": signs}
        if self._is_bitmap(shape):
            return {"signs": signs, "zeros": signs._replace(part="indices")}
        return {"signs": signs, "zeros": Slot(torch.int32, (self.zeros,), "indices")}

    def nominal_bits(self, shape: Shape) -> int:
        """One for each weight, as published: the third value is not counted there."""
        return math.prod(shape)
