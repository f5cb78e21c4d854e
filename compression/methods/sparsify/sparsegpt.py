"""Pruning column by column, later columns making up for earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method, Shape
from compression.methods.sparsify.keeping import evenly, keep_tiles, keep_top
from compression.methods.sparsify.output_error import inverse_factor
from compression.methods.sparsify.patterned import Patterned
from compression.registry import FloatRange, IntRange, Values, knob
from compression.second_moments import by_group
from compression.stats import LayerStats, inputs_of


@METHODS.register("sparsegpt")
class SparseGPT(Patterned):
    """Optimal brain surgeon over columns, which are pruned in order, ``block`` at a time.

    With U the upper Cholesky factor of ``(H + d I)^-1``, an entry's loss is
    ``(w_ij / U_jj)^2``. Entering a block the best of its entries are kept, over all rows together
    (n of every m: entering a tile, by row); then column by column the error of what is pruned,
    ``w_ij / U_jj``, is taken off the columns to come, ``w_i: -= (w_ij / U_jj) U_j:``.

    Groups of inputs keep ``max(1, round(k / G))`` each of the k values that ``sparsity`` leaves the
    layer: of 9 (in a depthwise convolution) no fewer than 1, a sparsity of 0.889.

    Stored bytes: as ``magnitude`` for k values, or as ``n_m``.

    Source: Frantar and Alistarh, SparseGPT, arXiv 2301.00774.
    """

    kinds = WITH_INPUTS
    needs = frozenset({"inputs"})
    block: int = knob(
        0, IntRange(0, 1 << 16), help="columns at a time; 0 = an eighth of them, from 16 to 128"
    )
    damping: float = knob(0.01, FloatRange(1e-6, 1.0), help="d, as a share of H's mean diagonal")
    inputs: str = knob(
        "dense",
        Values(("dense", "compressed")),
        help="H of the dense model, or with the layers before compressed: then all calibration "
        "examples go through the model once more for each layer, in every trial",
    )

    @property
    def sequential(self) -> bool:
        """See :attr:`Method.sequential`."""
        return self.inputs == "compressed"

    def reached(self, shape: Shape, groups: int) -> int:
        """See :meth:`Unstructured.reached`; as many in every group."""
        if self.tile:
            return self.tile.stored(shape)
        return evenly(self.budget(math.prod(shape)), groups)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs = inputs_of(stats)
        factor = inverse_factor(inputs.second_moment, self.damping)
        pruned = _Pruned.of(by_group(weight, len(inputs.mean)), factor)
        width = self._width(factor.shape[1])
        for start in range(0, factor.shape[1], width):
            self._prune(pruned, slice(start, min(start + width, factor.shape[1])))
        return self.store(pruned.weight.flatten(0, 1), pruned.mask.flatten(0, 1))

    def _width(self, columns: int) -> int:
        """Columns of a block, in whole tiles."""
        width = self.block or min(128, max(16, columns // 8))
        return self.tile.count(width) * self.tile.m if self.tile else width

    def _prune(self, pruned: _Pruned, columns: slice) -> None:
        """Prune a block, then take its errors off the columns after it."""
        weight, factor = pruned.weight[..., columns], pruned.factor[:, columns, columns]
        mask, errors = pruned.mask[..., columns], torch.zeros_like(weight)
        if not self.tile:
            mask.copy_(self._best_of_block(pruned, columns))
        for j in range(weight.shape[2]):
            if self.tile and j % self.tile.m == 0:
                ahead = slice(j, j + self.tile.m)
                scores = pruned.scores(slice(columns.start + j, columns.start + j + self.tile.m))
                mask[..., ahead] = keep_tiles(scores, self.tile)
            errors[..., j] = (weight[..., j] / factor[:, j, j, None]).masked_fill(mask[..., j], 0)
            weight[..., j:].addcmul_(errors[..., j, None], factor[:, None, j, j:], value=-1)
        pruned.weight[..., columns.stop :] -= errors @ pruned.factor[:, columns, columns.stop :]

    def _best_of_block(self, pruned: _Pruned, columns: slice) -> Tensor:
        """Keep so many that all blocks up to this one together have their share."""
        scores = pruned.scores(columns)
        groups, rows, total = pruned.weight.shape
        budget = self.reached((groups * rows, total), groups) // groups
        before, after = (round(budget * c / total) for c in (columns.start, columns.stop))
        return keep_top(scores.flatten(1), after - before).view_as(scores)


@dataclass(frozen=True)
class _Pruned:
    """The weight (G, m / G, n) on its way, what is kept of it, and U (G, n, n)."""

    weight: Tensor
    mask: Tensor
    factor: Tensor

    @classmethod
    def of(cls, weight: Tensor, factor: Tensor) -> _Pruned:
        """Nothing pruned yet."""
        return cls(weight.clone(), torch.zeros_like(weight, dtype=torch.bool), factor)

    def scores(self, columns: slice) -> Tensor:
        """``(w_ij / U_jj)^2``."""
        diagonal = self.factor.diagonal(dim1=1, dim2=2)[:, None, columns]
        return (self.weight[..., columns] / diagonal).square()
