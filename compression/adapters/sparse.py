"""Adapters that train some of the weights themselves: PEFT's SHiRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS
from compression.adapters.bridged import Bridged
from compression.methods.base import Shape, matrix_shape
from compression.registry import IntRange, knob
from compression.stats import LayerStats


def sorted_cells(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Rows and columns (2, k) of k different cells of a matrix (m, n), row by row."""
    rows, columns = matrix_shape(shape)
    flat = philox.subset(stream, tensor.shape[1], rows * columns).sort().values
    return torch.stack((flat // columns, flat % columns)).to(tensor)


@ADAPTERS.register("shira")
class Shira(Bridged):
    """SHiRA: ``y = (W + S) x``, S sparse with ``r (m + n)`` trained entries, 0 at the start.

    As many values as LoRA of rank r, for a delta of high rank. Which entries, is drawn for each
    layer from ``seed`` (the paper's random mask). The rank is clamped to ``m n / (m + n)``. Stored
    bytes, at b a value: ``b r (m + n)`` a layer, and 8 in all for the checksum of the places.

    Source: Bhardwaj et al., Sparse High Rank Adapters, arXiv 2406.13175.
    """

    peft_type = "SHIRA"
    scaled = False
    seeded = {"shira_indices": sorted_cells}
    # PEFT's comparison takes 3e-4 where its LoRA takes 1e-4.
    lr_factor = 3.0
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the places of the entries")

    def ranks(
        self, rank: int, shapes: Mapping[str, Shape], stats: Mapping[str, LayerStats]
    ) -> dict[str, int]:
        """See :meth:`Adapter.ranks`: there are no more entries than weights."""
        sides = {name: matrix_shape(shape) for name, shape in shapes.items()}
        return {name: min(rank, m * n // (m + n)) for name, (m, n) in sides.items()}

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "random_seed": 0}  # PEFT's own places are not used

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))
