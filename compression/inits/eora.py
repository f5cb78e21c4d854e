"""The compression error corrected where it shows in the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import damped, weighted_factors
from compression.registry import FloatRange, knob
from compression.stats import LayerStats, inputs_of


@INITS.register("eora")
class EoRA(Init):
    """B A = argmin ||(W - C(W) - B A) X||_F over matrices of rank r, in closed form.

    With ``H = X X^T / N + damping * mean(diag) I = Q L Q^T`` and E = W - C(W) that is
    ``TSVD_r(E Q L^1/2) L^-1/2 Q^T = U U^T E``, U the leading eigenvectors of ``E H E^T`` (see
    :mod:`compression.inits.weighted`). The start's error by outputs is ``sigma_{>r}(E H^1/2)``.

    Source: Liu et al., EoRA, arXiv 2410.21271, catalogue 001-120.
    """

    catalogue_id = "001-120"
    guarantee = "activation"
    needs = frozenset({"inputs"})
    damping: float = knob(1e-3, FloatRange(0.0, 1.0), help="share of the mean of diag H added to H")

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
        moment = damped(inputs_of(stats).pooled(), self.damping)
        scale = float(weight.norm())
        return Start(base, *weighted_factors(error, moment, rank, scale, generator))
