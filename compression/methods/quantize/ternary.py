"""Three values a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.quantize.grouping import from_groups, group_counts, spread, to_groups
from compression.methods.rows import ROW_STEP
from compression.packing import pack_trits, trit_bytes, unpack_trits
from compression.precision import DTYPES, narrow
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("ternary")
class Ternary(Method):
    """Codes -1, 0, +1 with the best scale per row or per group, five of them a byte.

    ``W ~ s t``. For the k largest ``|w|`` of a group kept, ``s`` is their mean and the squared
    error ``||w||^2 - (sum of them)^2 / k``; the k that makes it least, over all k, is the optimum
    over every s and t together. The codes are then the nearest to ``w / s`` for s as stored.

    Stored bytes: ``ceil(m n / 5) + b m g`` with ``g = ceil(n / group_size)`` groups a row (1 for
    group_size 0) and b bytes a scale.

    Source: Li et al., Ternary Weight Networks, arXiv 1605.04711, who approximate the optimum.
    """

    row_step = ROW_STEP
    group_size: int = knob(
        0, IntRange(0, 1 << 16), Values((0, 32, 64)), help="entries that share a scale; 0 = a row"
    )
    scale_dtype: str = knob(
        "float16", Values(("float16", "float32")), help="storage format of the scales"
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        grouped = to_groups(weight, self.group_size)
        scale = narrow(_best_scale(grouped.abs()), DTYPES[self.scale_dtype])
        step = scale.to(torch.float32).unsqueeze(2)
        codes = (grouped / torch.where(step > 0, step, torch.inf)).round_().clamp_(-1, 1)
        trits = from_groups(codes.to(torch.int8), tuple(weight.shape)).flatten() + 1
        return self, {"trits": pack_trits(trits), "scale": scale}

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        trits = unpack_trits(tensors["trits"], math.prod(shape)).to(torch.float32) - 1
        scales = spread(tensors["scale"].to(torch.float32), shape, self.group_size)
        return (trits.view(matrix_shape(shape)) * scales).view(shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        rows, groups, _ = group_counts(shape, self.group_size)
        return {
            "trits": Slot(torch.uint8, (trit_bytes(math.prod(shape)),), "base"),
            "scale": Slot(DTYPES[self.scale_dtype], (rows, groups), "scales"),
        }

    def nominal_bits(self, shape: Shape) -> int:
        """1.6 for each weight: a fifth of a byte."""
        return -(-8 * math.prod(shape) // 5)


def _best_scale(magnitudes: Tensor) -> Tensor:
    """The mean (m, g) of the k largest of each group (m, g, size), k as good as can be."""
    sums = magnitudes.sort(dim=2, descending=True).values.cumsum(2)
    counts = torch.arange(1, sums.shape[2] + 1, device=sums.device)
    # The largest sum^2 / k, in a form that tiny and huge weights do not overflow.
    best = (sums / counts.sqrt()).argmax(2, keepdim=True)
    return (sums.gather(2, best) / (best + 1)).squeeze(2)
