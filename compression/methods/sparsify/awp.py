"""Pruning by projected gradient descent on the error of the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.sparsify.output_error import largest_eigenvalue
from compression.methods.sparsify.patterned import Patterned
from compression.methods.sparsify.wanda import importance
from compression.registry import FloatRange, IntRange, knob
from compression.second_moments import by_group, row_errors
from compression.stats import LayerStats, inputs_of

_MARGIN = 1.02  # power iteration comes to the largest eigenvalue from below


@METHODS.register("awp")
class AWP(Patterned):
    """Projected gradient: ``Z <- P(Z + eta (W - Z) H)``, from what ``wanda`` keeps.

    P keeps the largest entries of each row, or n of every m in it; eta is ``step / lambda_max(H)``.
    For step <= 1 the error ``tr((W - Z) H (W - Z)^T)`` never rises; a row which rounding would
    make worse stays as it is.

    Of the paper's two projections this is the one onto sparse weights; the one onto a grid of few
    bits is not here. Values in fewer bits come from a next method in a chain, after the descent.

    Stored bytes: as ``magnitude`` for k values, or as ``n_m``.

    Source: AWP, catalogue 001-56.
    """

    catalogue_id = "001-56"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    iterations: int = knob(20, IntRange(1, 1000), help="gradient steps")
    step: float = knob(1.0, FloatRange(0.01, 1.0), help="step size, as a share of the safe one")

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs = inputs_of(stats)
        grouped, moment = by_group(weight, len(inputs.mean)), inputs.second_moment
        largest = _MARGIN * largest_eigenvalue(moment)
        rate = torch.where(largest > 0, self.step / largest, 0.0)
        mask = self.keep(importance(grouped, inputs))
        pruned = grouped * mask
        error = row_errors(grouped - pruned, moment)
        for _ in range(self.iterations):
            moved = pruned + rate * ((grouped - pruned) @ moment)
            kept = self.keep(moved.abs())
            moved *= kept
            after = row_errors(grouped - moved, moment)
            better = after < error
            mask, pruned = torch.where(better, kept, mask), torch.where(better, moved, pruned)
            error = torch.where(better, after, error)
        return self.store(pruned.flatten(0, 1), mask.flatten(0, 1))
