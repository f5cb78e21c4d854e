"""Adapters whose layers share one frozen random basis: PEFT's VeRA."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS
from compression.adapters.bridged import Bridged
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, IntRange, knob


def kaiming(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Uniform with the variance ``2 / fan_in``, as Kaiming's for a matrix (out, in)."""
    return philox.uniform(stream, tuple(tensor.shape), math.sqrt(6 / tensor.shape[-1])).to(tensor)


@ADAPTERS.register("vera")
class Vera(Bridged):
    """VeRA: ``y = W x + b * B (d * A x)``, A and B frozen, random, shared; b, d train.

    All layers share A and B. b (out,) starts at 0, d (rank,) at ``d_initial``. Stored bytes, at b
    a value: ``b (m + r)`` a layer, and 8 in all for the checksum of A and B, which are rebuilt from
    ``seed``.

    Source: Kopiczko et al., VeRA, arXiv 2310.11454.
    """

    catalogue_id = "001-88"
    peft_type = "VERA"
    shared = True
    scaled = False
    seeded = {"vera_A": kaiming, "vera_B": kaiming}
    lr_factor = 10.0
    d_initial: float = knob(0.1, FloatRange(1e-9, 1.0), help="where d starts")
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the shared A and B")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "d_initial": self.d_initial, "save_projection": False}

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r + m``."""
        rows, columns = matrix_shape(shape)
        return rank * (rows + columns) + rank + rows
