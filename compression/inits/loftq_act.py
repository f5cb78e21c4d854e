"""LoftQ in the norm of the layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.alternating import alternate
from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import damped, damping_knob, output_error, weighted_factors
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats, inputs_of


@INITS.register("loftq_act")
class LoftQAct(Init):
    """LoftQ by outputs: base = C(W - B A) and B A = argmin ||(W - base - B A) X||_F in turn.

    The iterate whose outputs are nearest is kept. One iteration is ``eora``, damping and all.

    Source: Li et al., LoftQ, arXiv 2310.08659, with the correction of EoRA, arXiv 2410.21271.
    """

    guarantee = "activation"
    needs = frozenset({"inputs"})
    iterations: int = knob(5, IntRange(1, 100), Values((2, 5)), help="alternations")
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
        moment, scale = inputs_of(stats).pooled(), float(weight.norm())
        weighting = damped(moment, self.damping)

        def correct(left: Tensor) -> tuple[Tensor, Tensor]:
            return weighted_factors(left, weighting, rank, scale, generator)

        def norm(left: Tensor) -> float:
            return output_error(left, moment)

        return alternate(weight, compress, self.iterations, correct, norm)
