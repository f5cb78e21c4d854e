"""Four-bit codes into a table of sixteen values, scaled by the largest weight of a block."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.methods.base import Method, Shape, Slot
from compression.methods.levels import Croppable, cropped
from compression.methods.quantize.grouping import from_groups, group_counts, to_groups
from compression.methods.rows import ROW_STEP
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow_up
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats

SUPER = 256  # scales that share one scale of their own, where they are quantised as well


@dataclass(frozen=True)
class Codebook(Croppable):
    """The nearest of a table's values in [-1, 1], times the largest |w| of the block.

    The stored scale is rounded up, so that no weight lies outside the table.
    """

    # With scales of scales: rows of which whole blocks of SUPER come to an end.
    row_step: ClassVar[Any] = property(lambda self: SUPER if self.double else ROW_STEP)
    group_size: int = knob(
        64, IntRange(0, 1 << 16), Values((32, 64, 128)), help="entries of a row that share a scale"
    )
    double: bool = knob(
        False, Values((False, True)), Values((False, True)), help="scales in 8 bits themselves"
    )
    scale_dtype: str = knob(
        "float16", Values(("float16", "float32")), help="storage format of the scales"
    )

    @classmethod
    @abstractmethod
    def table(cls) -> Tensor:
        """The values in ascending order, at most 16, from -1 to 1, float32."""

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        grouped, table = to_groups(weight, self.group_size), self.table().to(weight.device)
        scales = self._store(grouped.abs().amax(2))
        step = self._scales(scales, tuple(weight.shape)).unsqueeze(2)
        halfway = (table[1:] + table[:-1]) / 2
        nearest = torch.bucketize(
            grouped / torch.where(step > 0, step, 1.0), halfway, out_int32=True
        )
        codes = from_groups(nearest, tuple(weight.shape)).flatten()
        return self, {"codes": pack(codes, 4), **scales}

    def _store(self, largest: Tensor) -> dict[str, Tensor]:
        dtype = DTYPES[self.scale_dtype]
        if not self.double:
            return {"scale": narrow_up(largest, dtype)}
        flat = largest.flatten()
        blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % SUPER)).view(-1, SUPER)
        top = narrow_up(blocks.amax(1) / 255, dtype)
        step = torch.where(top > 0, top, torch.inf).to(torch.float32).unsqueeze(1)
        codes = (blocks / step).ceil().clamp(0, 255).to(torch.uint8)
        return {"scale": codes.flatten()[: flat.numel()].view(largest.shape), "top": top}

    def _scales(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """The scales (m, g) as float32."""
        scale = tensors["scale"].to(torch.float32)
        if not self.double:
            return scale
        top = tensors["top"].to(torch.float32).repeat_interleave(SUPER)
        return scale * top[: scale.numel()].view(scale.shape)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        codes = unpack(tensors["codes"], 4, math.prod(shape)).view(shape)
        table = self.table().to(codes.device)
        # A table of fewer values than codes: one beyond it, which encoding never gives, is the end.
        values = table[codes.clamp(max=len(table) - 1)]
        scales = self._scales(tensors, shape).unsqueeze(2)
        return from_groups(to_groups(values, self.group_size) * scales, shape)

    @property
    def crops(self) -> bool:
        """Unless scales share one of their own, which would have to move."""
        return not self.double

    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """See :meth:`Croppable.crop`."""
        codes = cropped(unpack(tensors["codes"], 4, math.prod(shape)), shape, to)
        rows, groups, _ = group_counts(to, self.group_size)
        scale = tensors["scale"][:rows, :groups].contiguous()
        return {"codes": pack(codes.flatten(), 4), "scale": scale}

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        rows, groups, _ = group_counts(shape, self.group_size)
        dtype = DTYPES[self.scale_dtype]
        slots = {
            "codes": Slot(torch.uint8, (packed_bytes(math.prod(shape), 4),), "base"),
            "scale": Slot(torch.uint8 if self.double else dtype, (rows, groups), "scales"),
        }
        if self.double:
            slots["top"] = Slot(dtype, (-(-rows * groups // SUPER),), "scales")
        return slots

    def nominal_bits(self, shape: Shape) -> int:
        """Four for each weight."""
        return 4 * math.prod(shape)
