"""The adapter takes what is large in the weight or in its inputs, the compressed base the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import floored, weighted_factors
from compression.registry import FloatRange, Values, knob
from compression.stats import LayerStats, inputs_of


@INITS.register("svdquant")
class SVDQuant(Init):
    """B A = TSVD_r(W diag(l)) diag(l)^-1 with l = rms(x)^alpha, and the base is C(W - B A).

    In the paper x / l is rounded too: l moves outliers from x into ``W diag(l)``, and the low-rank
    branch takes them out of there. Here x stays in floating point, so ``diag(l)^-1`` goes into A,
    the base keeps W's own columns, and of l there remains what it does to the choice of the
    branch: alpha 0 is ``pissa``, 1 leaves the base the least output error that uncorrelated inputs
    allow. The paper's denominator ``max|W_j|^(1 - alpha)`` balances the grids of x against those
    of W, and has no use here.

    ``||(W - B A) diag(l)|| < ||W diag(l)||`` for W other than 0, and without compression
    ``base + B A = W``. No guarantee: what is left can be harder to compress than W.

    Source: Li et al., SVDQuant, arXiv 2411.05007, catalogue 001-182.
    """

    catalogue_id = "001-182"
    guarantee = "none"
    needs = frozenset({"inputs"})
    smooth_alpha: float = knob(
        0.5, FloatRange(0.0, 1.0), Values((0.0, 0.5, 1.0)), help="how much the inputs count"
    )

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        sizes = floored(inputs_of(stats).pooled().diagonal().clamp(min=0).sqrt())
        moment = sizes ** (2 * self.smooth_alpha)
        matrix, scale = weight.flatten(1), float(weight.norm())
        b, a = weighted_factors(matrix, moment, rank, scale, generator)
        return Start(compress(weight - (b @ a).view_as(weight)), b, a)
