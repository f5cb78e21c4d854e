"""Rounding by what it does to the loss of the whole model."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor

from compression.methods.base import METHODS, Method
from compression.methods.quantize.feedback import round_diagonals, unit_upper
from compression.methods.quantize.gptq import GPTQ
from compression.stats import InputStats, LayerStats, Need, inputs_of, output_moment_of


@METHODS.register("yaqa")
class ModelPreserving(GPTQ):
    """``gptq`` that also makes up for errors from output to output, by gradients of the loss.

    Makes ``tr(H_O E H_I E^T)`` small, ``E = W - W'``, H_I the second moment of the inputs (its mean
    over the groups of a convolution) and H_O that of the gradients of the outputs. With unit upper
    factors ``I + U`` of H_I and ``I + V`` of H_O, each entry is rounded such that
    ``(I + V)^T E (I + U)`` holds only what its own rounding was off by. Where ``gptq`` gives less,
    its codes are kept; for H_O a multiple of I both are the same.

    Stored bytes: ``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric,
    with ``g = ceil(n / group_size)`` groups a row (1 for group_size 0) and b bytes a scale.

    Source: Tseng et al., Model-Preserving Adaptive Rounding, arXiv 2505.22988, with one moment of
    gradients for H_O in place of its power iterations.
    """

    catalogue_id = "001-129"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "outputs"})

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape, matrix = tuple(weight.shape), weight.flatten(1)
        inputs = _pooled(inputs_of(stats))
        moment, outer = inputs.second_moment, output_moment_of(stats)
        grid = self.grid(weight, self._share(weight, moment) if self.clip else 1.0)
        solve = partial(round_diagonals, outer=unit_upper(outer[None], self.damping)[0])
        codes = self._rounded(matrix, grid.spread(shape, self.group_size), moment, solve)
        both_ways = self.packed(codes, grid)
        one_way = super().encode(weight, LayerStats(inputs))[1]

        def loss(tensors: dict[str, Tensor]) -> Tensor:
            error = matrix - self.decode(tensors, shape).flatten(1)
            return (outer @ error @ moment[0] * error).sum()

        return self, both_ways if loss(both_ways) < loss(one_way) else one_way


def _pooled(inputs: InputStats) -> InputStats:
    mean, magnitude = (part.mean(0, keepdim=True) for part in (inputs.mean, inputs.magnitude))
    return InputStats(inputs.pooled()[None], mean, magnitude, inputs.count)
