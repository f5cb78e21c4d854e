"""The correction of the compression error trained, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start, random_rows
from compression.inits.weighted import balanced, damping_knob, dominant, where_nearer
from compression.registry import IntRange, Values, knob
from compression.second_moments import damped, output_gram
from compression.stats import LayerStats, inputs_of


@INITS.register("int2_1")
class Int2Point1(Init):
    """B A trained from B = 0 and A random to minimise ``E ||(W - C(W) - B A) x||^2``.

    A step solves for B with A fixed and for A with B fixed, each exactly: with E = W - C(W) and H
    the second moment of x, damped as in ``eora``, ``B = E H A^T (A H A^T)^-1`` and ``A = B^+ E``.
    That is orthogonal iteration on ``E H E^T``, no step of which raises the error, and whose limit
    is ``eora``. The paper trains by gradients, through the whole model, and against its outputs
    too; of that the objective of one layer remains. Bits a weight: ``bits + b r (m + n) / (m n)``,
    b those of an entry of a factor.

    Source: Chai et al., INT2.1, arXiv 2306.08162, catalogue 001-73.
    """

    catalogue_id = "001-73"
    guarantee = "activation"
    needs = frozenset({"inputs"})
    steps: int = knob(100, IntRange(1, 10_000), Values((10, 100)), help="most steps")
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
        error = (weight - base.dense()).flatten(1).double()
        inputs = inputs_of(stats)
        moment = damped(inputs.pooled().double(), self.damping)
        a = random_rows(rank, error.shape[1], generator).to(error)
        outer, gram = output_gram(error, moment)
        first = outer.T @ (error @ (moment @ a.T))
        basis = outer @ dominant(gram, first, self.steps)
        factors = balanced(basis, basis.T @ error, float(weight.norm()), generator)
        return Start(base, *where_nearer(factors, error.float(), inputs.second_moment))
