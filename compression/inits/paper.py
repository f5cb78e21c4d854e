"""The random start of LoRA-Compression."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.stats import LayerStats


@INITS.register("paper")
class Paper(Init):
    """B = 0 and A normal with a standard deviation of 1/sqrt(r): the compressed model itself.

    Source: catalogue 000, its ``paper_init``, with the shapes put right. The other one,
    ``svd_init``, is ``residual``.
    """

    catalogue_id = "000"
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
        a = torch.empty(rank, columns).normal_(std=rank**-0.5, generator=generator).to(weight)
        return Start(compress(weight), weight.new_zeros(rows, rank), a)
