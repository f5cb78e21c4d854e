"""The adapter's first step follows that of full training."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, live_rows
from compression.registry import FloatRange, Values, knob
from compression.stats import LayerStats, gradients_of


@INITS.register("lora_ga")
class LoraGA(Init):
    """A and B along singular vectors of the mean gradient G; the base is C(W - B A).

    With G = U S V^T, ``A = c V_{1..r}^T`` and ``B = c U_{r+1..2r}``, ``c^2 = sqrt(m) / gamma``.
    The first step of B and A then moves ``B A`` along the best rank-2r part of G: B's gradient is
    ``G A^T``, in the span of U_{1..r}, A's is ``B^T G``, in that of V_{r+1..2r}. Where there are
    fewer than 2r directions, B has the last r of them; where G is 0 below rounding, B is 0 and A
    random. As in the paper B A is taken out of the base, so the start differs from W by the
    compression of W - B A alone. No guarantee: that can be harder to compress than W.

    Source: Wang et al., LoRA-GA, arXiv 2407.05000 (its stable scale and A_r B_2r directions; its
    alpha / r is 1 here).
    """

    guarantee = "none"
    needs = frozenset({"gradients"})
    gamma: float = knob(
        16.0, FloatRange(1e-3, 1e6), Values((16.0, 64.0)), help="the greater, the smaller the start"
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
        alive = s > torch.finfo(s.dtype).eps * max(gradient.shape) * s[0]
        last = min(2 * rank, len(s))
        size = len(gradient) ** 0.25 / self.gamma**0.5
        a = live_rows(size * vh[:rank], alive[:rank], generator)
        b = size * u[:, last - rank : last] * alive[last - rank : last]
        return Start(compress(weight - (b @ a).view_as(weight)), b, a)
