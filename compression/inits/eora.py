"""The compression error corrected where it shows in the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import damping_knob, weighted_factors, where_nearer
from compression.second_moments import damped
from compression.stats import LayerStats, inputs_of


@INITS.register("eora")
class EoRA(Init):
    """B A = argmin ||(W - C(W) - B A) X||_F over matrices of rank r, in closed form.

    With ``H = X X^T / N + damping * mean(diag) I = Q L Q^T`` and E = W - C(W) that is
    ``TSVD_r(E Q L^1/2) L^-1/2 Q^T = U U^T E``, U the leading eigenvectors of ``E H E^T`` (see
    :mod:`compression.inits.weighted`). ``||(E - B A) H^1/2||_F = sigma_{>r}(E H^1/2)``. The paper
    has no damping; it takes nothing from the guarantee, and helps on inputs not seen. Groups of a
    convolution share the mean of their H, and those that would lose by it are not corrected.

    Source: Liu et al., EoRA, arXiv 2410.21271, catalogue 001-120.
    """

    catalogue_id = "001-120"
    guarantee = "activation"
    needs = frozenset({"inputs"})
    damping: float = damping_knob()

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
        inputs, scale = inputs_of(stats), float(weight.norm())
        moment = damped(inputs.pooled().double(), self.damping)
        factors = weighted_factors(error, moment, rank, scale, generator)
        return Start(base, *where_nearer(factors, error, inputs.second_moment))
