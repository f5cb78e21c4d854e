"""Base and adapter fitted to each other in turn."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, best_factors
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@INITS.register("loftq")
class LoftQ(Init):
    """Alternate base = C(W - B A) and B A = TSVD_r(W - base); the best iterate is kept.

    One iteration is ``residual``. The error can rise from one iterate to the next, hence the last
    is not taken blindly. Works with any method.

    Source: Li et al., LoftQ, arXiv 2310.08659.
    """

    guarantee = "frobenius"
    iterations: int = knob(5, IntRange(1, 100), Values((2, 5)), help="alternations")

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        matrix, scale = weight.flatten(1), float(weight.norm())

        def iterate(delta: Tensor) -> tuple[float, Start]:
            base = compress((matrix - delta).view_as(weight))
            left = matrix - base.dense().flatten(1)
            b, a = best_factors(left, rank, scale, generator)
            return float((left - b @ a).norm()), Start(base, b, a)

        now = best = iterate(torch.zeros_like(matrix))
        for _ in range(self.iterations - 1):
            now = iterate(now[1].B @ now[1].A)
            best = min(best, now, key=lambda found: found[0])
        return best[1]
