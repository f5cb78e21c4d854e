"""A fixed number of entries kept in every tile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, Slot, matrix_shape
from compression.packing import MAX_BITS, pack, packed_bytes, unpack
from compression.precision import DTYPES, narrow
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("block_sparse")
class BlockSparse(Method):
    """The ``keep`` largest of every tile_rows x tile_cols tile, by absolute value or by value.

    Tiles cover the matrix (m, n); where they do not divide it, the last ones reach over the edge
    and entries beyond it are never chosen before real ones. Ties keep the first in row order.

    Stored bytes: ``b T keep + ceil(T keep ceil(log2(t)) / 8)`` with ``t = tile_rows tile_cols``,
    ``T = ceil(m / tile_rows) ceil(n / tile_cols)`` tiles and b bytes a value.

    Source: catalogue 000. Its "4x4" is 1x16 here, and it keeps the largest by ``signed`` value, so
    that large negative weights are lost: a published error, to be measured.
    """

    catalogue_id = "000"
    refills = True
    row_step: ClassVar[Any] = property(lambda self: 8 * self.tile_rows)
    tile_rows: int = knob(4, IntRange(1, 256), Values((1, 4)), help="height of a tile")
    tile_cols: int = knob(4, IntRange(1, 256), Values((4, 16)), help="width of a tile")
    keep: int = knob(1, IntRange(1, 1 << MAX_BITS), Values((1, 2)), help="entries kept in a tile")
    largest: str = knob(
        "absolute", Values(("absolute", "signed")), help="by absolute value, or as published"
    )
    value_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the values"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self._tile < 2:
            yield f"{self.name}: a tile needs at least two entries"
        elif self.keep > self._tile:
            yield f"{self.name}.keep: at most the {self._tile} entries of a tile, got {self.keep}"

    @property
    def _tile(self) -> int:
        return self.tile_rows * self.tile_cols

    @property
    def _index_bits(self) -> int:
        return (self._tile - 1).bit_length()

    def _grid(self, shape: Shape) -> tuple[int, int]:
        rows, columns = matrix_shape(shape)
        return -(-rows // self.tile_rows), -(-columns // self.tile_cols)

    def _to_tiles(self, matrix: Tensor, fill: float) -> Tensor:
        down, across = self._grid(tuple(matrix.shape))
        missing = (
            across * self.tile_cols - matrix.shape[1],
            down * self.tile_rows - matrix.shape[0],
        )
        padded = torch.nn.functional.pad(matrix, (0, missing[0], 0, missing[1]), value=fill)
        tiles = padded.view(down, self.tile_rows, across, self.tile_cols).transpose(1, 2)
        return tiles.reshape(down * across, self._tile)

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """See :meth:`Method.density`: of each tile."""
        return self.keep, self._tile

    def keeping(self, count: int) -> Method:
        """See :meth:`Method.keeping`."""
        found: Method = self.replace(keep=count)
        return found

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1)
        ranked = matrix.abs() if self.largest == "absolute" else matrix
        order = self._to_tiles(ranked, -torch.inf).sort(dim=1, descending=True, stable=True)
        kept = order.indices[:, : self.keep].sort(dim=1).values
        values = self._to_tiles(matrix, 0.0).gather(1, kept).flatten()
        return self, {
            "values": narrow(values, DTYPES[self.value_dtype]),
            "indices": pack(kept.flatten(), self._index_bits),
        }

    def refill(
        self, tensors: Mapping[str, Tensor], weight: Tensor
    ) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.refill`."""
        values = self._to_tiles(weight.flatten(1), 0.0).gather(1, self._kept(tensors)).flatten()
        stored = narrow(values, DTYPES[self.value_dtype])
        return self, {"values": stored, "indices": tensors["indices"]}

    def _kept(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Positions within each tile, (T, keep)."""
        count = tensors["values"].numel()
        return unpack(tensors["indices"], self._index_bits, count).view(-1, self.keep)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        values = tensors["values"].to(torch.float32)
        down, across = self._grid(shape)
        count, kept = down * across, self._kept(tensors)
        tiles = values.new_zeros(count, self._tile).scatter(1, kept, values.view(count, self.keep))
        matrix = tiles.view(down, across, self.tile_rows, self.tile_cols).transpose(1, 2)
        rows, columns = matrix_shape(shape)
        matrix = matrix.reshape(down * self.tile_rows, across * self.tile_cols)
        return matrix[:rows, :columns].reshape(shape)

    def _stored(self, shape: Shape) -> int:
        return math.prod(self._grid(shape)) * self.keep

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        count = self._stored(shape)
        index_bytes = packed_bytes(count, self._index_bits)
        return {
            "values": Slot(DTYPES[self.value_dtype], (count,), "base"),
            "indices": Slot(torch.uint8, (index_bytes,), "indices"),
        }

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """The values, those of each row of tiles as a row."""
        down, across = self._grid(shape)
        return {"values": (down, across * self.keep)}

    def nominal_bits(self, shape: Shape) -> int:
        """``keep / t`` values a weight, in the bits of their dtype; tiles cut at the edge pro rata.

        Source: the count of published tables, 32/16 bits a weight for one of sixteen.
        """
        bits = 8 * DTYPES[self.value_dtype].itemsize
        return -(-bits * math.prod(shape) * self.keep // self._tile)

    def macs(self, shape: Shape) -> int:
        """One for each value kept."""
        return min(self._stored(shape), math.prod(shape))
