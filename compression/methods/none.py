"""No compression."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot
from compression.methods.levels import Croppable, cropped
from compression.stats import LayerStats


@METHODS.register("none")
class NoMethod(Croppable):
    """The weight as it is, in float32.

    Stored bytes: ``4 m n``. A model leaves such layers untouched, in their own dtype.
    """

    any_shape = True
    row_step = 1
    refills = True

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return self, {"weight": weight.clone(memory_format=torch.contiguous_format)}

    def refill(
        self, tensors: Mapping[str, Tensor], weight: Tensor
    ) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.refill`: every position has a value."""
        return self.encode(weight, None)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return tensors["weight"]

    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """See :meth:`Croppable.crop`."""
        return {"weight": cropped(tensors["weight"], shape, to)}

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        return {"weight": Slot(torch.float32, shape, "base")}

    def nominal_bits(self, shape: Shape) -> int:
        """32 for each value."""
        return 32 * math.prod(shape)
