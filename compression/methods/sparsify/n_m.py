"""The largest n of every m neighbours."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from compression.methods.base import METHODS, Method, Shape
from compression.methods.sparsify.keeping import Tile, keep_tiles, tile_problems
from compression.methods.sparsify.sparse_form import SparseForm
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("n_m")
class NOfM(SparseForm):
    """The n largest of every m neighbours in a row by absolute value: 2:4, 1:4, any.

    Where m does not divide a row, its last tile reaches over the end, and keeps entries beyond it
    only if it has fewer than n real ones.

    Stored bytes: ``b T n + ceil(T ceil(log2 C(m, n)) / 8)`` for ``T = rows ceil(columns / m)``
    tiles and values of b bytes. For m > 16 positions are stored as those of ``magnitude``, T n of
    T m cells.

    Source: Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378.
    """

    n: int = knob(2, IntRange(1, 255), Values((1, 2)), help="values kept of every m")
    m: int = knob(4, IntRange(2, 256), Values((4, 8)), help="neighbours in a row")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from tile_problems(self.name, self.n, self.m)

    @property
    def tile(self) -> Tile:
        """See :attr:`SparseForm.tile`."""
        return Tile(self.n, self.m)

    def stored(self, shape: Shape) -> int:
        """See :meth:`SparseForm.stored`."""
        return self.tile.stored(shape)

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """See :meth:`Method.density`: of each tile."""
        return self.n, self.m

    def keeping(self, count: int) -> Method:
        """See :meth:`Method.keeping`."""
        found: Method = self.replace(n=count)
        return found

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        matrix = weight.flatten(1)
        return self.store(matrix, keep_tiles(matrix.abs(), self.tile))
