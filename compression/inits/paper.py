"""The random start of LoRA-Compression."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS
from compression.inits.zeros import Zeros


@INITS.register("paper")
class Paper(Zeros):
    """B = 0 and A normal with a standard deviation of 1/sqrt(r): the compressed model itself.

    Source: catalogue 000, its ``paper_init``, with the shapes put right. The other one,
    ``svd_init``, is ``residual``.
    """

    catalogue_id = "000"

    def rows(self, rank: int, columns: int, generator: torch.Generator | None) -> Tensor:
        """See :meth:`Zeros.rows`."""
        return torch.empty(rank, columns).normal_(std=rank**-0.5, generator=generator)
