"""How every sparse method stores its weight: the values kept, and where they were."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.methods.base import Method, Shape, Slot, matrix_shape
from compression.methods.rows import ROW_STEP
from compression.methods.sparsify.keeping import (
    Tile,
    share,
)
from compression.methods.sparsify.positions import (
    bitmap_bytes,
    indices_bytes,
    pack_indices,
    pack_tiles,
    tile_bits,
    unpack_indices,
    unpack_some_indices,
    unpack_tiles,
)
from compression.packing import MAX_BITS, ones_in, pack, packed_bytes, unpack, unpack_part
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob

SPARSITY = 0.5
RUN = 128  # values that share a scale in a chain, at most


@dataclass(frozen=True)
class SparseForm(Method):
    """Values in row order, and their positions as a bitmap or as indices, whichever is smaller.

    Stored bytes: ``b k + p`` for k values of b bytes among the N = m n cells of the matrix, with
    ``p = ceil(N / 8)`` as a bitmap, ``ceil(k l / 8) + ceil((k + floor((N - 1) / 2^l)) / 8)`` as
    indices, l from 1 to 16 the best. With n of every m' kept: ``T = m ceil(n / m')`` tiles, k = T n
    and ``p = ceil(T ceil(log2 C(m', n)) / 8)``; beyond m' = 16 as above, with N = T m' cells.
    """

    refills = True
    row_step: ClassVar[Any] = property(lambda self: self._row_step())
    value_dtype: str = knob(
        "float32", Values(("float32", "float16")), help="storage format of the values"
    )
    coding: str = knob(
        "auto",
        Values(("auto", "bitmap", "indices")),
        help="how positions are stored; auto = whichever is smaller",
    )

    @property
    def tile(self) -> Tile | None:
        """The pattern kept, if there is one."""
        return None

    @abstractmethod
    def stored(self, shape: Shape) -> int:
        """Values stored, k."""

    def store(self, matrix: Tensor, mask: Tensor) -> tuple[Method, dict[str, Tensor]]:
        """The values (m, n) under a mask (m, n) of what to keep, as :meth:`Method.encode`."""
        resolved, shape = self._resolved(tuple(matrix.shape), mask), tuple(matrix.shape)
        matrix, mask = resolved._filled(matrix, mask)
        values = narrow(matrix[mask], DTYPES[self.value_dtype])
        return resolved, {"values": values, "indices": resolved._positions(mask, shape)}

    def refill(
        self, tensors: Mapping[str, Tensor], weight: Tensor
    ) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.refill`."""
        matrix, mask = weight.flatten(1), self._mask(tensors["indices"], tuple(weight.shape))
        filled = torch.nn.functional.pad(matrix, (0, mask.shape[1] - matrix.shape[1]))
        values = narrow(filled[mask], DTYPES[self.value_dtype])
        return self, {"values": values, "indices": tensors["indices"]}

    def _resolved(self, shape: Shape, mask: Tensor) -> SparseForm:
        """With the coding that ``auto`` comes to."""
        found: SparseForm = self.replace(coding=self._coding(shape))
        return found

    def _row_step(self) -> int:
        """That of a pattern, of which every row keeps as many values."""
        even = self.tile is not None and (self._numbered() or self.coding == "bitmap")
        return ROW_STEP if even else 0

    def _cells(self, shape: Shape) -> int:
        rows, columns = matrix_shape(shape)
        return rows * (self.tile.count(columns) * self.tile.m if self.tile else columns)

    def _numbered(self) -> bool:
        """Whether indices are numbers of choices, one a tile."""
        return self.tile is not None and self.tile.m <= MAX_BITS

    def _filled(self, matrix: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows filled up to whole tiles; cells beyond the end where a tile would keep too few."""
        if self.tile is None:
            return matrix, mask
        n, m = self.tile
        beyond = -matrix.shape[1] % m
        matrix, mask = (torch.nn.functional.pad(x, (0, beyond)) for x in (matrix, mask))
        if (short := n - (m - beyond)) > 0:
            mask[:, matrix.shape[1] - beyond :][:, :short] = True
        return matrix, mask

    def _index_bytes(self, shape: Shape) -> int:
        if self.tile and self._numbered():
            tiles = matrix_shape(shape)[0] * self.tile.count(matrix_shape(shape)[1])
            return packed_bytes(tiles, tile_bits(*self.tile))
        return indices_bytes(self._cells(shape), self.stored(shape))

    def _coding(self, shape: Shape) -> str:
        if self.coding != "auto":
            return self.coding
        smaller = self._index_bytes(shape) < bitmap_bytes(self._cells(shape))
        return "indices" if smaller else "bitmap"

    def _positions(self, mask: Tensor, shape: Shape) -> Tensor:
        if self._coding(shape) == "bitmap":
            return pack(mask.flatten(), 1)
        if self.tile and self._numbered():
            return pack_tiles(mask.view(-1, self.tile.m), self.tile.n)
        return pack_indices(mask.flatten())

    def _mask(self, packed: Tensor, shape: Shape) -> Tensor:
        """The inverse of :meth:`_positions`, (rows, cells in a row)."""
        rows, cells = shape[0], self._cells(shape)
        if self._coding(shape) == "bitmap":
            return unpack(packed, 1, cells).bool().view(rows, -1)
        if self.tile and self._numbered():
            n, m = self.tile
            return unpack_tiles(packed, n, m, cells // m).view(rows, -1)
        return unpack_indices(packed, cells, self.stored(shape)).view(rows, -1)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        mask, values = self._mask(tensors["indices"], shape), tensors["values"].to(torch.float32)
        filled = values.new_zeros(mask.shape).masked_scatter(mask, values)
        return filled[:, : matrix_shape(shape)[1]].reshape(shape)

    def rows(self, tensors: Mapping[str, Tensor], shape: Shape, start: int, stop: int) -> Tensor:
        """See :meth:`Method.rows`: the part of the positions, and the values that lie there."""
        if self.row_step:
            return super().rows(tensors, shape, start, stop)
        width = self._cells(shape) // shape[0]
        cells = start * width, stop * width
        if self._coding(shape) == "bitmap":
            before = ones_in(tensors["indices"], cells[0])
            mask = unpack_part(tensors["indices"], 1, *cells).bool()
        else:
            count = self.stored(shape)
            where = self._cells(shape), count
            before, mask = unpack_some_indices(tensors["indices"], *where, *cells)
        values = tensors["values"][before : before + int(mask.sum())].to(torch.float32)
        filled = values.new_zeros(mask.shape).masked_scatter(mask, values).view(-1, width)
        return filled[:, : matrix_shape(shape)[1]].reshape(-1, *shape[1:])

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        bitmap = self._coding(shape) == "bitmap"
        size = bitmap_bytes(self._cells(shape)) if bitmap else self._index_bytes(shape)
        return {
            "values": Slot(DTYPES[self.value_dtype], (self.stored(shape),), "base"),
            "indices": Slot(torch.uint8, (size,), "indices"),
        }

    def inner(self, shape: Shape) -> dict[str, Shape]:
        """The values in equal runs, so that what follows has a scale or more for each.

        With n of m a run is what a row keeps; otherwise it is ``ceil(k / ceil(k / 128))`` values,
        the last one filled up with zeros.
        """
        count = self.stored(shape)
        runs = shape[0] if self.tile else -(-count // RUN)
        return {"values": (runs, -(-count // runs))}

    def nominal_bits(self, shape: Shape) -> int:
        """Values stored, in the bits of their dtype."""
        return 8 * DTYPES[self.value_dtype].itemsize * self.stored(shape)

    def macs(self, shape: Shape) -> int:
        """One for each value kept."""
        return min(self.stored(shape), math.prod(shape))


@dataclass(frozen=True)
class Unstructured(SparseForm):
    """A share of all entries kept wherever they are; at least one."""

    sparsity: float = knob(
        SPARSITY,
        FloatRange(0.0, 1.0),
        Values((0.5, 0.7, 0.8, 0.9)),
        when={"kept": (0,)},
        help="share of the entries that become zero",
    )
    kept: int = knob(0, IntRange(0, 1 << 40), help="values kept; 0 = by sparsity")

    def stored(self, shape: Shape) -> int:
        """See :meth:`SparseForm.stored`.

        Raises:
            InvalidSetting: the number is still to be found by compressing.
        """
        if not self.kept:
            raise InvalidSetting([f"{self.name}: what is kept is known after compressing"])
        return min(self.kept, math.prod(shape))

    def budget(self, cells: int) -> int:
        """Values to keep of so many: those of ``kept``, or ``round((1 - sparsity) cells)``."""
        return share(cells, self.sparsity) if not self.kept else min(self.kept, cells)

    def reached(self, shape: Shape, groups: int) -> int:
        """Values that are kept of a weight whose inputs are in ``groups``: the budget, rounded."""
        return self.budget(math.prod(shape))

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """See :meth:`Method.density`: of all entries."""
        return self.budget(math.prod(shape)), math.prod(shape)

    def keeping(self, count: int) -> Method:
        """See :meth:`Method.keeping`."""
        found: Method = self.replace(kept=count, sparsity=SPARSITY)
        return found

    def _resolved(self, shape: Shape, mask: Tensor) -> SparseForm:
        found: Unstructured = self.replace(kept=int(mask.sum()), sparsity=SPARSITY)
        return super(Unstructured, found)._resolved(shape, mask)
