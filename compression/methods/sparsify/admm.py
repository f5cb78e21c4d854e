"""The best values for the weights that are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.sparsify.keeping import Tile, keep_tiles, keep_top
from compression.methods.sparsify.patterned import Patterned
from compression.registry import FloatRange, IntRange, Values, knob
from compression.second_moments import by_group, row_errors
from compression.stats import LayerStats, inputs_of


@METHODS.register("admm")
class ADMM(Patterned):
    """Kept weights that make up for those which are not, by alternating directions (ADMM).

    On weights and inputs scaled to ``H_jj = 1``: ``V <- (W H + rho (Z - U)) (H + rho I)^-1``,
    ``Z <- mask * (V + U)``, ``U <- U + V - Z``. Over the first ``rounds`` iterations the mask
    tightens to the share wanted, by the largest ``|V + U|``; from then on it stays, and Z comes to
    ``H_SS w_S = (H w)_S`` in each row. Rows end no worse than with the mask alone.

    Stored bytes: as ``magnitude`` for k values, or as ``n_m``.

    Source: Boza, Fast and Optimal Weight Update for Pruned LLMs, catalogue 001-62.
    """

    catalogue_id = "001-62"
    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    iterations: int = knob(20, IntRange(1, 10000), help="ADMM iterations")
    rounds: int = knob(
        15, IntRange(1, 1000), Values((1, 15)), help="iterations over which the mask tightens"
    )
    rho: float = knob(1.0, FloatRange(0.01, 100.0), help="penalty, in units of diag H")

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs = inputs_of(stats)
        scale = inputs.root_mean_square()[:, None]
        scale = torch.where(scale > 0, scale, 1.0)
        scaled = by_group(weight, len(inputs.mean)) * scale
        moment = inputs.second_moment / (scale * scale.transpose(1, 2))
        mask, updated = self._solve(scaled, moment)
        plain = scaled * mask
        better = row_errors(scaled - updated, moment) < row_errors(scaled - plain, moment)
        values = torch.where(better, updated, plain) / scale
        return self.store(values.flatten(0, 1), mask.flatten(0, 1))

    def _solve(self, weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """The mask, and the values under it."""
        identity = torch.eye(moment.shape[1], device=moment.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment + self.rho * identity))
        start = weight @ moment @ inverse
        mask = self._choose(weight.abs(), 1)
        kept, dual = weight * mask, torch.zeros_like(weight)
        for iteration in range(1, self.iterations + 1):
            free = start + self.rho * (kept - dual) @ inverse
            dual += free
            if 1 < iteration <= self.rounds:
                mask = self._choose(dual.abs(), iteration)
            kept = dual * mask
            dual -= kept
        return self._final(mask, kept)

    def _final(self, mask: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Tightened to the full, where there were fewer iterations than rounds."""
        if self.iterations < self.rounds:
            mask = self._choose(torch.where(mask, kept.abs(), -1.0), self.rounds)
        return mask, kept * mask

    def _choose(self, scores: Tensor, iteration: int) -> Tensor:
        """Of the entries to be pruned, ``1 - (1 - t / rounds)^3`` are by iteration t."""
        share = 1 - (1 - iteration / self.rounds) ** 3
        if self.tile:
            n, m = self.tile
            return keep_tiles(scores, Tile(m - round(share * (m - n)), m))
        columns, final = scores.shape[2], self.row_budget(scores)
        return keep_top(scores, columns - round(share * (columns - final)))
