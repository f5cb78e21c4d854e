"""Inputs scaled, so that the weights of large ones are rounded finely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from compression.kinds import WITH_INPUTS
from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.quantize.uniform import Grid, UniformGrid
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, InvalidSetting, Values, knob
from compression.second_moments import by_group, row_errors
from compression.stats import InputStats, LayerStats, Need, inputs_of

ALPHAS = tuple(step / 20 for step in range(21))
FLOOR = 1e-3  # of the mean magnitude: what an input counts for that calibration never saw


@METHODS.register("awq")
class ActivationAware(UniformGrid):
    """``rtn`` of ``W diag(s)``, with s a power of the magnitude of each input.

    ``W ~ Q(W diag(s)) diag(s)^-1``, ``s_j = (mean |x_j|)^alpha`` over the groups of a convolution,
    scaled to ``max s = 1 / min s``. Of alphas 0 to 1 that of least ``tr(E H E^T)``, H the second
    moment of the inputs; ``clip`` also tries part of each group's range and keeps it in the rows
    in which it gives less. With alpha 0 and whole ranges it is ``rtn``, so it is never worse.

    Stored bytes: ``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric,
    with ``g = ceil(n / group_size)`` groups a row (1 for group_size 0) and b bytes a scale; and
    ``b n`` for s unless alpha is 0.

    Source: Lin et al., AWQ, arXiv 2306.00978.
    """

    kinds = WITH_INPUTS
    common = frozenset({"channels"})
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})
    alpha: float = knob(-1.0, FloatRange(-1.0, 1.0), help="power, 0 to 1; -1 = the best one")
    clip: bool = knob(True, Values((False, True)), help="grids that may clip weights")

    def __post_init__(self) -> None:
        """Refuse a power that inputs would count inversely by."""
        super().__post_init__()
        if -1 < self.alpha < 0:
            raise InvalidSetting([f"awq.alpha: expected 0 to 1, or -1, got {self.alpha!r}"])

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        inputs, matrix = inputs_of(stats), weight.flatten(1)
        tried = {alpha: self._channels(inputs, alpha) for alpha in self._alphas()}
        losses = {
            alpha: float(self._losses(matrix, channels, self.grid(matrix * channels), inputs).sum())
            for alpha, channels in tried.items()
        }
        alpha = min(losses, key=lambda alpha: losses[alpha])
        channels = tried[alpha]
        scaled = matrix * channels
        grid = self.grid(scaled)
        if self.clip:
            grid = self._clipped(matrix, channels, grid, inputs)
        codes = grid.spread(tuple(matrix.shape), self.group_size).codes(scaled)
        tensors = self.packed(codes, grid)
        if alpha:
            tensors["channels"] = channels.to(DTYPES[self.scale_dtype])
        return self.replace(alpha=alpha), tensors

    def _alphas(self) -> tuple[float, ...]:
        return ALPHAS if self.alpha < 0 else (self.alpha,)

    def _channels(self, inputs: InputStats, alpha: float) -> Tensor:
        """The s (n,) as stored, in float32."""
        magnitude = inputs.magnitude.mean(0)
        floor = FLOOR * magnitude.mean()
        powers = (magnitude.clamp(min=floor) if floor > 0 else torch.ones_like(magnitude)) ** alpha
        powers = powers / (powers.max() * powers.min()).sqrt()
        return narrow(powers, DTYPES[self.scale_dtype]).to(torch.float32)

    def _losses(self, matrix: Tensor, channels: Tensor, grid: Grid, inputs: InputStats) -> Tensor:
        """``e H e^T`` (m,) of rounding to nearest on a grid of the scaled weight."""
        full = grid.spread(tuple(matrix.shape), self.group_size)
        decoded = full.points(full.codes(matrix * channels)) / channels
        moment = inputs.second_moment
        return row_errors(by_group(matrix - decoded, len(moment)), moment).flatten()

    def _clipped(self, matrix: Tensor, channels: Tensor, grid: Grid, inputs: InputStats) -> Grid:
        squares = inputs.root_mean_square().square()
        importance = squares.repeat_interleave(len(matrix) // len(squares), dim=0) / channels**2
        scaled = matrix * channels
        clipped = self.grid(scaled, self.fitted_share(scaled, importance))
        before, after = (self._losses(matrix, channels, each, inputs) for each in (grid, clipped))
        return clipped.rows(after < before, grid)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        scaled = super().decode(tensors, shape)
        if not self.alpha:
            return scaled
        return (scaled.flatten(1) / tensors["channels"].to(torch.float32)).view(shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`.

        Raises:
            InvalidSetting: alpha is still to be chosen.
        """
        if self.alpha < 0:
            raise InvalidSetting(["awq: whether scales are stored is known after compressing"])
        slots = super().layout(shape)
        if self.alpha:
            columns = matrix_shape(shape)[1]
            slots["channels"] = Slot(DTYPES[self.scale_dtype], (columns,), "scales")
        return slots
