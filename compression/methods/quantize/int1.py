"""One bit a weight, or a few, each with a scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.methods.levels import Croppable, Nested, cropped
from compression.methods.quantize.grouping import group_counts, spread, to_groups
from compression.methods.rows import ROW_STEP
from compression.packing import pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("int1")
class Int1(Nested, Croppable):
    """Signs, one bit each, with an optional scale per row or per group.

    ``W ~ s * sign(W)`` with ``sign(0) = +1``, so there are two values only. The scale
    ``s = mean |w|`` over its row or group minimises ``||W - s sign(W)||_F``; without scales
    s = 1, which is the published int1 of LoRA-Compression. Every further pass does the same with
    what the passes before it left: ``W ~ sum_p s_p sign(W - what came before)``.

    Stored bytes: ``p (ceil(m n / 8) + b m ceil(n / group_size))`` with p passes and b bytes a
    scale; one group a row with ``scale=row``, no second term with ``scale=none``.

    Source: Rastegari et al., XNOR-Net, arXiv 1603.05279; catalogue 000 without scales. Passes:
    Guo et al., Network Sketching, arXiv 1706.02021.
    """

    catalogue_id = "000"
    row_step: ClassVar[Any] = property(lambda self: ROW_STEP if self.passes == 1 else 0)
    scale: str = knob(
        "row", Values(("none", "row", "group")), Values(("none", "row", "group")), help="s per"
    )
    group_size: int = knob(
        32,
        IntRange(2, 1 << 16),
        Values((16, 32, 64)),
        when={"scale": ("group",)},
        help="entries of a row that share a scale",
    )
    scale_dtype: str = knob(
        "float16",
        Values(("float16", "float32")),
        when={"scale": ("row", "group")},
        help="storage format of the scales",
    )
    passes: int = knob(
        1,
        IntRange(1, 4),
        Values((1, 2, 3)),
        when={"scale": ("row", "group")},
        help="signs a weight, each of what those before it left",
    )

    @property
    def _size(self) -> int:
        return self.group_size if self.scale == "group" else 0

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        shape, left = tuple(weight.shape), weight.flatten(1)
        signs, scales = [], []
        for number in range(self.passes):
            signs.append(pack((left.flatten() >= 0).to(torch.uint8), 1))
            if self.scale != "none":
                scales.append(narrow(self._mean(left.abs()), DTYPES[self.scale_dtype]))
            if number + 1 < self.passes:
                step = spread(scales[-1].to(torch.float32), shape, self._size)
                left = left - torch.where(left >= 0, step, -step)
        tensors = {"signs": torch.cat(signs)}
        if scales:
            tensors["scale"] = torch.cat(scales)
        return self, tensors

    def _mean(self, magnitudes: Tensor) -> Tensor:
        """Mean of each group of a matrix (m, n): of real entries only, where the last is short."""
        counts = to_groups(torch.ones_like(magnitudes[:1]), self._size).sum(2)
        return to_groups(magnitudes, self._size).sum(2) / counts

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        dense = torch.zeros(matrix_shape(shape), device=tensors["signs"].device)
        scales = tensors["scale"].chunk(self.passes) if self.scale != "none" else [None]
        for packed, scale in zip(tensors["signs"].chunk(self.passes), scales, strict=True):
            signs = unpack(packed, 1, math.prod(shape)).view(dense.shape) * 2.0 - 1
            if scale is not None:
                signs *= spread(scale.to(torch.float32), shape, self._size)
            dense += signs
        return dense.view(shape)

    def forms(self, shape: Shape) -> Iterable[Method]:
        """See :meth:`Nested.forms`: fewer passes, as each is of what those before it leave."""
        return [self.replace(passes=passes) for passes in range(self.passes - 1, 0, -1)]

    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """See :meth:`Nested.at_level`: the first passes."""
        layout = level.layout(shape)
        return {name: tensors[name][: layout[name].shape[0]].clone() for name in layout}

    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """See :meth:`Croppable.crop`, pass by pass."""
        cells = math.prod(shape)
        signs = (unpack(part, 1, cells) for part in tensors["signs"].chunk(self.passes))
        found = {"signs": torch.cat([pack(cropped(one, shape, to).flatten(), 1) for one in signs])}
        if self.scale != "none":
            rows, groups, _ = group_counts(to, self._size)
            scales = tensors["scale"].chunk(self.passes)
            found["scale"] = torch.cat([scale[:rows, :groups] for scale in scales])
        return found

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: those of each pass, added up."""
        if self.passes == 1:
            return super().rows(tensors, shape, start, stop)
        once, parts = self.replace(passes=1), {k: t.chunk(self.passes) for k, t in tensors.items()}
        found = torch.zeros((stop - start, *shape[1:]), device=tensors["signs"].device)
        for number in range(self.passes):
            own = {slot: chunks[number] for slot, chunks in parts.items()}
            found += once.rows(own, shape, start, stop)
        return found

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        slots = {
            "signs": Slot(torch.uint8, (self.passes * packed_bytes(math.prod(shape), 1),), "base")
        }
        if self.scale != "none":
            rows, groups, _ = group_counts(shape, self._size)
            slots["scale"] = Slot(DTYPES[self.scale_dtype], (self.passes * rows, groups), "scales")
        return slots

    def nominal_bits(self, shape: Shape) -> int:
        """One for each weight and pass."""
        return self.passes * math.prod(shape)
