"""Half-quadratic quantisation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.quantize.grouping import group_counts, spread
from compression.methods.rows import ROW_STEP
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow, narrow_up
from compression.registry import FloatRange, IntRange, Values, knob
from compression.stats import LayerStats

BETA, GROWTH = 10.0, 1.01  # of the splitting's penalty: the paper's values
CHUNK = (1 << 15) - 1  # entries fitted at once: in the cache, and too few for torch's threads
WHOLE = 1 << 23  # floats of this size have no fraction


@METHODS.register("hqq")
class HalfQuadratic(Method):
    """A uniform grid moved to fit most weights well and outliers less.

    ``W ~ s q + o`` with codes q of ``bits`` bits, and floats s and o per row or per group. Makes
    ``sum |W - s q - o|^p`` small by half-quadratic splitting: the errors are shrunk to
    ``e = sign(x) relu(|x| - |x|^(p-1) / beta)``, x the error in units of s, and o becomes the mean
    of ``W - s e - s q``; with ``fit=both``, which the paper leaves at ``zero``, s and o are the
    line that fits it best. The first grid goes from the least weight to the greatest, and of all
    grids each group keeps that of least squared error: none is worse than the first.

    Stored bytes: ``ceil(bits m n / 8) + 2 b m g`` with ``g = ceil(n / group_size)`` groups a row
    (1 for group_size 0) and b bytes a float.

    Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.
    """

    row_step = ROW_STEP
    bits: int = knob(4, IntRange(2, 8), Values((2, 3, 4)), help="bits a weight")
    group_size: int = knob(
        64, IntRange(0, 1 << 16), Values((0, 32, 64)), help="entries that share a grid; 0 = a row"
    )
    fit: str = knob("both", Values(("zero", "both")), help="move the zero point, or the step too")
    power: float = knob(0.7, FloatRange(0.1, 1.0), help="p of the norm that is made small")
    iterations: int = knob(20, IntRange(0, 200), help="steps of the splitting")
    scale_dtype: str = knob(
        "float16", Values(("float16", "float32")), help="storage format of s and o"
    )

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape, matrix = tuple(weight.shape), weight.flatten(1)
        rows, _, size = group_counts(shape, self.group_size)
        whole = matrix.shape[1] // size * size
        fitted = [self._fitted(matrix[:, :whole].reshape(-1, size))]
        if whole < matrix.shape[1]:  # a short last group
            fitted.append(self._fitted(matrix[:, whole:]))
        scale, offset = (
            torch.cat([part.view(rows, -1) for part in parts], 1)
            for parts in zip(*fitted, strict=True)
        )
        step, start = (spread(part.float(), shape, self.group_size) for part in (scale, offset))
        codes = self._codes(matrix, step, start).flatten()
        return self, {
            "codes": pack(codes.to(torch.int64), self.bits),
            "scale": scale,
            "offset": offset,
        }

    def _codes(self, values: Tensor, step: Tensor, offset: Tensor) -> Tensor:
        step = torch.where(step > 0, step, 1.0)  # all weights equal: every code is 0
        exact = ((values - offset) / step).clamp_(0, 2**self.bits - 1)
        # As round_() does, which for a few thousand entries already waits for all threads.
        return exact.add_(WHOLE).sub_(WHOLE)

    def _fitted(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and offset as stored, each (g,), of groups (g, size)."""
        chunk = len(groups) if groups.is_cuda else max(CHUNK // groups.shape[1], 1)
        parts = (groups[start : start + chunk] for start in range(0, len(groups), chunk))
        scales, offsets = zip(*map(self._fitted_chunk, parts), strict=True)
        return torch.cat(scales), torch.cat(offsets)

    def _fitted_chunk(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        dtype, beta = DTYPES[self.scale_dtype], BETA
        groups = groups.T.contiguous()  # so that sums over a group run along memory
        least, greatest = groups.amin(0), groups.amax(0)
        scale = best_scale = narrow_up((greatest - least) / (2**self.bits - 1), dtype)
        offset = best_offset = narrow(least, dtype)
        best = torch.full_like(least, torch.inf)
        for number in range(self.iterations + 1):
            codes = self._codes(groups, scale.float(), offset.float())
            error = groups - torch.addcmul(offset.float(), codes, scale.float())
            loss = error.square().sum(0)
            better = loss < best
            best = torch.where(better, loss, best)
            best_scale = torch.where(better, scale, best_scale)
            best_offset = torch.where(better, offset, best_offset)
            if number < self.iterations:
                target = groups - self._shrunk(error, scale.float(), beta)
                step = self._step(codes, target, scale.float())
                scale = narrow_up(step, dtype)
                offset = narrow((target - codes * scale.float()).mean(0), dtype)
                beta *= GROWTH
        return best_scale, best_offset

    def _shrunk(self, error: Tensor, step: Tensor, beta: float) -> Tensor:
        """The part of the errors that the norm lets be: of the large ones, almost all."""
        step = torch.where(step > 0, step, 1.0)
        size = error.abs() / step
        kept = (size - size.pow(self.power - 1) / beta).clamp_(min=0)
        return (kept * step).copysign(error)

    def _step(self, codes: Tensor, target: Tensor, step: Tensor) -> Tensor:
        """The slope of the line through (code, target), where there is one going up."""
        if self.fit == "zero":
            return step
        centred = codes - codes.mean(0)
        variance = centred.square().sum(0)
        slope = (centred * target).sum(0) / variance.clamp(min=1e-6)
        return torch.where(slope > 0, slope, step)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        codes = unpack(tensors["codes"], self.bits, math.prod(shape)).to(torch.float32)
        step, start = (
            spread(tensors[slot].to(torch.float32), shape, self.group_size)
            for slot in ("scale", "offset")
        )
        return torch.addcmul(start, codes.view(matrix_shape(shape)), step).view(shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        rows, groups, _ = group_counts(shape, self.group_size)
        dtype = DTYPES[self.scale_dtype]
        return {
            "codes": Slot(torch.uint8, (packed_bytes(math.prod(shape), self.bits),), "base"),
            "scale": Slot(dtype, (rows, groups), "scales"),
            "offset": Slot(dtype, (rows, groups), "scales"),
        }

    def nominal_bits(self, shape: Shape) -> int:
        """``bits`` for each weight."""
        return self.bits * math.prod(shape)
