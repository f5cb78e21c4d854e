"""The adapter starts as the best correction of the compression error."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, best_factors
from compression.stats import LayerStats


@INITS.register("residual")
class Residual(Init):
    """B A = TSVD_r(W - C(W)): the nearest rank-r matrix to the compression error.

    The start's error is that of the singular values left out, ``sigma_{>r}(W - C(W))``.

    Source: catalogue 000 (its SVD init).
    """

    catalogue_id = "000"
    guarantee = "frobenius"

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        base = compress(weight)
        error = (weight - base.dense()).flatten(1)
        return Start(base, *best_factors(error, rank, float(weight.norm()), generator))
