"""Adapters that train some of the weights themselves: PEFT's SHiRA and Super-Tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.methods.base import Shape, matrix_shape
from compression.registry import FloatRange, IntRange, Values, knob
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


@ADAPTERS.register("supertuning")
class Supertuning(Bridged):
    """Super-Tuning: ``y = (W + S) x``, S trained where W is largest, 0 at the start.

    S has ``density m n`` entries, at the largest (or smallest) of |W|; ``hybrid_rank`` ranks of a
    LoRA, at scale 2, can be added (the paper's Supra). W is the compressed base, whose values can
    be equal: then the choice among them is arbitrary. Which entries, is stored. Stored bytes, at b
    a value: ``(b + 4) density m n + b hybrid_rank (m + n)``.

    Source: as PEFT names it, Super-Tuning, arXiv 2607.09287.
    """

    peft_type = "SUPERTUNING"
    of_base = True
    ranked = scaled = False
    kept = ("supertuning_indices",)
    density: float = knob(
        0.01,
        FloatRange(1e-6, 1.0),
        search=FloatRange(0.002, 0.05, log=True),
        help="share of the weights that S changes",
    )
    largest: bool = knob(True, Values((True, False)), help="those of the largest |W|, or smallest")
    hybrid_rank: int = knob(0, IntRange(0, 2**16), help="ranks of a LoRA beside it")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "sparsity": 1 - self.density,
            "select_top": self.largest,
            "r": self.hybrid_rank or None,
        }

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if not self._count(shape):
            yield f"density {self.density} leaves none of its {math.prod(shape)} weights to train"

    def macs(self, shape: Shape, rank: int) -> int:
        """``density m n + hybrid_rank (m + n)``."""
        return self._count(shape) + self.hybrid_rank * sum(matrix_shape(shape))

    def _count(self, shape: Shape) -> int:
        """How many entries PEFT gives S: it rounds this down."""
        return int(math.prod(shape) * (1 - (1 - self.density)))
