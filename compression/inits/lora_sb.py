"""The adapter starts as the first step that full training would take."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, live_rows
from compression.registry import FloatRange, Values, knob
from compression.stats import LayerStats, gradients_of


@INITS.register("lora_sb")
class LoraSB(Init):
    """B A = TSVD_r(-eta G), G the mean gradient of the loss: the best rank-r first step of SGD.

    B = -eta U_r S_r, and A = V_r^T has orthonormal rows, so that the gradient of B is that of the
    whole weight, projected: ``dL/dB = G A^T``. In the paper the adapter is ``B R A`` with B and A
    frozen, and R = S_r alone trained; here B R is the one factor B, and both factors are trained.
    No guarantee: the start lowers the loss, for small eta, and not the distance from W.

    Source: Ponkshe et al., LoRA-SB, arXiv 2411.19557, catalogue 001-168.
    """

    catalogue_id = "001-168"
    guarantee = "none"
    needs = frozenset({"gradients"})
    eta: float = knob(
        0.01, FloatRange(0.0, 1e6), Values((1e-3, 1e-2, 1e-1)), help="size of the step"
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
        gradient = gradients_of(stats).mean
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        alive = s[:rank] > torch.finfo(s.dtype).eps * max(gradient.shape) * s[0]
        b = -self.eta * u[:, :rank] * (s[:rank] * alive)
        return Start(compress(weight), b, live_rows(vh[:rank], alive, generator))
