"""Base and adapter fitted to each other in turn."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.alternating import alternate
from compression.inits.base import INITS, Compress, Init, Start, best_factors
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@INITS.register("loftq")
class LoftQ(Init):
    """Alternate base = C(W - B A) and B A = TSVD_r(W - base); the best iterate is kept.

    One iteration is ``residual``. Works with any method.

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
        scale = float(weight.norm())

        def correct(left: Tensor) -> tuple[Tensor, Tensor]:
            return best_factors(left, rank, scale, generator)

        return alternate(weight, compress, self.iterations, correct, lambda e: float(e.norm()))
