"""Half-precision storage."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.methods.levels import Croppable, cropped
from compression.precision import DTYPES, narrow
from compression.registry import Values, knob
from compression.stats import LayerStats


@METHODS.register("cast")
class Cast(Croppable):
    """Every value rounded to float16 or bfloat16.

    Stored bytes: ``2 m n``. Relative error at most 2**-11 (float16, in its normal range) or
    2**-8 (bfloat16).
    """

    any_shape = True
    row_step = 1
    dtype: str = knob("float16", Values(("float16", "bfloat16")), help="storage format")

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self, {"weight": narrow(weight, DTYPES[self.dtype]).contiguous()}

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return tensors["weight"].to(torch.float32)

    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """See :meth:`Croppable.crop`."""
        return {"weight": cropped(tensors["weight"], shape, to)}

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        return {"weight": Slot(DTYPES[self.dtype], shape, "base")}

    def nominal_bits(self, shape: Shape) -> int:
        """16 for each value."""
        return 16 * math.prod(shape)
