"""Round to nearest on a uniform grid."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from compression.methods.base import METHODS, Method, Shape
from compression.methods.levels import Croppable, cropped
from compression.methods.quantize.grouping import group_counts
from compression.methods.quantize.uniform import UniformGrid
from compression.packing import unpack
from compression.stats import LayerStats


@METHODS.register("rtn")
class RoundToNearest(UniformGrid, Croppable):
    """Integers of 2 to 8 bits on a uniform grid per row or per group.

    ``W ~ s (q - z)`` with codes q in [0, 2**bits). Symmetric: ``z = 2**(bits-1)`` and
    ``s = max |w| / (2**(bits-1) - 1/2)``, the finest step at which both ends are s/2 away from a
    point. Asymmetric: the grid spans ``[min(w, 0), max(w, 0)]`` and z is stored as a code. Scales
    are rounded up when stored, so the error is at most s/2 everywhere.

    Stored bytes: ``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric,
    with ``g = ceil(n / group_size)`` groups a row (1 for group_size 0) and b bytes a scale.
    """

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        grid = self.grid(weight)
        codes = grid.spread(tuple(weight.shape), self.group_size).codes(weight.flatten(1))
        return self, self.packed(codes, grid)

    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """See :meth:`Croppable.crop`."""
        codes = cropped(unpack(tensors["codes"], self.bits, math.prod(shape)), shape, to)
        rows, groups, _ = group_counts(to, self.group_size)
        found = {"codes": self._pack(codes)}
        found["scale"] = tensors["scale"][:rows, :groups].contiguous()
        if self.mode == "asymmetric":
            before = group_counts(shape, self.group_size)[:2]
            zero = unpack(tensors["zero"], self.bits, math.prod(before)).view(before)
            found["zero"] = self._pack(zero[:rows, :groups])
        return found
