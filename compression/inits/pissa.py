"""The adapter takes the principal part, the compressed base the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, best_factors
from compression.stats import LayerStats


@INITS.register("pissa")
class Pissa(Init):
    """B A = TSVD_r(W), and the base is C(W - B A).

    No guarantee: what is left after the principal part can be harder to compress than W.

    Source: Meng et al., PiSSA, arXiv 2404.02948 (there the base is not compressed or int4).
    """

    guarantee = "none"

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        b, a = best_factors(weight.flatten(1), rank, float(weight.norm()), generator)
        return Start(compress(weight - (b @ a).view_as(weight)), b, a)
