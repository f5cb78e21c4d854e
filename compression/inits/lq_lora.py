"""LoftQ in a norm of what the loss is sensitive to."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.alternating import alternate
from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import floored, weighted_factors
from compression.registry import IntRange, InvalidSetting, Values, knob
from compression.stats import LayerStats, gradients_of


@INITS.register("lq_lora")
class LQLoRA(Init):
    """Alternate as ``loftq`` in ``||D_row (W - base - B A) D_col||_F``, the weights by Fisher.

    F (m, n) is the mean of the squared gradients of single examples. The norm that is wanted,
    ``||sqrt(F) * E||_F``, has no closed-form correction; with ``sqrt(F)`` replaced by row times
    column weights it has: ``B A = D_row^-1 TSVD_r(D_row E D_col) D_col^-1``. D_row and D_col hold
    the row and column means of ``sqrt(F)``, those below 1e-4 of the largest raised to that. The
    paper stops when the error rises; here the best of all iterates is kept.

    Source: Guo et al., LQ-LoRA, arXiv 2311.12023 (its data-aware form).
    """

    guarantee = "fisher"
    needs = frozenset({"samples"})
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
        rows, columns = fisher_weights(stats)
        moment, scale = columns.square(), float(weight.norm())

        def correct(left: Tensor) -> tuple[Tensor, Tensor]:
            return weighted_factors(left, moment, rank, scale, generator, rows)

        def norm(left: Tensor) -> float:
            return float((left * rows[:, None] * columns).norm())

        return alternate(weight, compress, self.iterations, correct, norm)


def fisher_weights(stats: LayerStats | None) -> tuple[Tensor, Tensor]:
    """The diagonals of D_row (m,) and D_col (n,).

    Raises:
        InvalidSetting: gradients of single examples were not computed.
    """
    samples = gradients_of(stats).samples
    if samples is None:
        raise InvalidSetting(["needs calibration, and has no gradients of single examples"])
    root = samples.float().square().mean(0).sqrt()
    return floored(root.mean(1)), floored(root.mean(0))
