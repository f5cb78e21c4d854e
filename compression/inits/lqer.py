"""The compression error corrected where activations are large."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.inits.weighted import floored, weighted_factors, where_nearer
from compression.registry import Values, knob
from compression.stats import InputStats, LayerStats, inputs_of


@INITS.register("lqer")
class LQER(Init):
    """B A = TSVD_r(E S) S^-1, the error E = W - C(W) scaled by the size of each input.

    S is diagonal: mean |x| or the root of mean x^2, no entry below 1e-4 of the largest. The start
    has ``||(E - B A) S||_F = sigma_{>r}(E S)``, the least there is, and is no worse than zeros by
    outputs and by Frobenius norm (see :mod:`compression.inits.weighted`). Groups of a convolution
    share S, and those that would lose by it are not corrected.

    Source: Zhang et al., LQER, arXiv 2402.02446 (its L2QER), catalogue 001-52.
    """

    catalogue_id = "001-52"
    guarantee = "activation"
    needs = frozenset({"inputs"})
    act_scale: str = knob(
        "abs_mean",
        Values(("abs_mean", "rms")),
        Values(("abs_mean", "rms")),
        help="size of an input: mean |x|, or sqrt(mean x^2)",
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
        base = compress(weight)
        error = (weight - base.dense()).flatten(1)
        inputs, scale = inputs_of(stats), float(weight.norm())
        moment = self._sizes(inputs).square()
        factors = weighted_factors(error, moment, rank, scale, generator)
        return Start(base, *where_nearer(factors, error, inputs.second_moment))

    def _sizes(self, inputs: InputStats) -> Tensor:
        """The diagonal of S, (n,), over all groups."""
        if self.act_scale == "abs_mean":
            return floored(inputs.magnitude.mean(0))
        return floored(inputs.root_mean_square().square().mean(0).sqrt())
