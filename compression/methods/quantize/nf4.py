"""Four-bit NormalFloat."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.methods.base import METHODS
from compression.methods.quantize.codebook import Codebook


@METHODS.register("nf4")
class NormalFloat4(Codebook):
    """Sixteen quantiles of a normal distribution, scaled by the largest weight of a block.

    Seven below zero, zero itself and eight above, on each side in steps of equal probability from
    the median to the outermost, ``1 - (1/30 + 1/32) / 2``; then divided by the largest.

    Stored bytes: ``ceil(m n / 2) + b m g`` with ``g = ceil(n / group_size)`` blocks a row and b
    bytes a scale; with ``double``, one byte a scale and b for every 256 of them.

    Source: Dettmers et al., QLoRA, arXiv 2305.14314.
    """

    @classmethod
    def table(cls) -> Tensor:
        """See :meth:`Codebook.table`."""
        outermost = 1 - (1 / 30 + 1 / 32) / 2
        below = torch.linspace(1 - outermost, 0.5, 8, dtype=torch.float64)
        above = torch.linspace(0.5, outermost, 9, dtype=torch.float64)
        values: Tensor = torch.special.ndtri(torch.cat([below, above[1:]]))
        return (values / values[-1]).to(torch.float32)
