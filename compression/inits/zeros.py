"""The adapter starts without effect."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, random_rows
from compression.stats import LayerStats


@INITS.register("zeros")
class Zeros(Init):
    """B = 0 and A random: the start is the compressed model itself.

    Source: Hu et al., LoRA, arXiv 2106.09685.
    """

    guarantee = "frobenius"
    fixes_alpha = False

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        rows, columns = weight.flatten(1).shape
        a = self.rows(rank, columns, generator).to(weight)
        return Start(compress(weight), weight.new_zeros(rows, rank), a)

    def rows(self, rank: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """A, (rank, columns)."""
        return random_rows(rank, columns, generator)
