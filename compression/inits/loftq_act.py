"""LoftQ in the norm of the layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.alternating import alternate
from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import damping_knob, output_errors, weighted_factors, where_nearer
from compression.registry import IntRange, Values, knob
from compression.second_moments import damped
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
        inputs, scale = inputs_of(stats), float(weight.norm())
        weighting = damped(inputs.pooled().double(), self.damping)

        def correct(left: Tensor) -> tuple[Tensor, Tensor]:
            factors = weighted_factors(left, weighting, rank, scale, generator)
            return where_nearer(factors, left, inputs.second_moment)

        def norm(left: Tensor) -> float:
            return float(output_errors(left, inputs.second_moment).sum())

        return alternate(weight, compress, self.iterations, correct, norm)
