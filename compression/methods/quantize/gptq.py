"""Rounding column by column, each making up for the errors of those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method
from compression.methods.quantize.feedback import round_columns, unit_upper
from compression.methods.quantize.uniform import Grid, UniformGrid
from compression.registry import FloatRange, Values, knob
from compression.second_moments import by_group, row_errors
from compression.stats import LayerStats, Need, inputs_of

Solver = Callable[[Tensor, Grid, Tensor], Tensor]  # as feedback.round_columns


@METHODS.register("gptq")
class GPTQ(UniformGrid):
    """``rtn``'s grid and storage, with the codes that make the error of the outputs small.

    Columns of W are rounded in turn at ``w_j + sum_{i<j} (w_i - w'_i) U_ij``, where the second
    moment of the inputs is ``H + d I = (I + U) D (I + U)^T``: the same codes as by Cholesky of the
    inverse. ``act_order`` takes inputs of large mean square first; as the grid is that of W as it
    was, nothing about the order is stored. ``clip`` lets each group take the share of its range
    on which rounding to nearest errs least, inputs weighed by their mean square. A row for which
    ``rtn`` gives less ``e H e^T`` keeps that: none is worse. For H a multiple of I it is ``rtn``,
    unless clipped.

    Stored bytes: ``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric,
    with ``g = ceil(n / group_size)`` groups a row (1 for group_size 0) and b bytes a scale.

    Source: Frantar et al., GPTQ, arXiv 2210.17323; this form: Chee et al., QuIP, arXiv 2307.13304.
    """

    kinds = WITH_INPUTS
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})
    act_order: bool = knob(True, Values((False, True)), help="large inputs first")
    clip: bool = knob(True, Values((False, True)), help="grids that may clip weights")
    damping: float = knob(0.01, FloatRange(0.0, 10.0), help="d, as a share of H's mean diagonal")
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

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape, matrix = tuple(weight.shape), weight.flatten(1)
        moment = inputs_of(stats).second_moment
        plain = self.grid(weight)
        grid = self.grid(weight, self._share(weight, moment)) if self.clip else plain
        full, plain_full = (each.spread(shape, self.group_size) for each in (grid, plain))
        codes, nearest = self._rounded(matrix, full, moment), plain_full.codes(matrix)
        found, plainly = (
            row_errors(by_group(matrix - each, len(moment)), moment).flatten()
            for each in (full.points(codes), plain_full.points(nearest))
        )
        worse = found > plainly
        return self, self.packed(
            torch.where(worse[:, None], nearest, codes), plain.rows(worse, grid)
        )

    def _share(self, weight: Tensor, moment: Tensor) -> Tensor:
        diagonal = moment.diagonal(dim1=1, dim2=2)
        return self.fitted_share(
            weight, diagonal.repeat_interleave(len(weight) // len(moment), dim=0)
        )

    def _rounded(
        self, matrix: Tensor, grid: Grid, moment: Tensor, solve: Solver = round_columns
    ) -> Tensor:
        """Codes (m, n) by the feedback of errors from input to input."""
        order = self._order(moment)
        weight, step, zero = (
            _taken(by_group(part, len(moment)).transpose(1, 2), order)
            for part in (matrix, grid.step, grid.zero)
        )
        upper = unit_upper(_taken(_taken(moment, order).transpose(1, 2), order), self.damping)
        codes = solve(weight, Grid(grid.scale, step, zero, grid.top), upper)
        return _taken(codes, order.argsort(1)).transpose(1, 2).reshape(matrix.shape)

    def _order(self, moment: Tensor) -> Tensor:
        """The inputs (G, n) of each group in the order of rounding."""
        diagonal = moment.diagonal(dim1=1, dim2=2)
        if self.act_order:
            return diagonal.sort(dim=1, descending=True, stable=True).indices
        return torch.arange(diagonal.shape[1], device=moment.device).expand(diagonal.shape)


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """(G, n, r) with the n in another order (G, n), contiguous."""
    return values.gather(1, order.unsqueeze(2).expand(values.shape)).contiguous()
