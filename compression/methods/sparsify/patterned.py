"""A share of every row kept, or n of every m neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from compression.methods.base import Shape
from compression.methods.sparsify.keeping import Tile, evenly, keep_tiles, keep_top, tile_problems
from compression.methods.sparsify.sparse_form import SPARSITY, SparseForm, Unstructured
from compression.registry import FloatRange, IntRange, Values, knob

UNSTRUCTURED = {"pattern": ("unstructured",)}
PATTERNED = {"pattern": ("n_m",)}


@dataclass(frozen=True)
class Patterned(Unstructured):
    """A share of every row kept, or n of every m neighbours in a row.

    Rows keep ``max(1, round(k / m))`` each of the k values that ``sparsity`` leaves the layer: of 9
    (in a depthwise convolution) no fewer than 1, a sparsity of 0.889.
    """

    sparsity: float = knob(
        SPARSITY,
        FloatRange(0.0, 1.0),
        Values((0.5, 0.7, 0.8, 0.9)),
        when={**UNSTRUCTURED, "kept": (0,)},
        help="share of the entries that become zero",
    )
    kept: int = knob(
        0, IntRange(0, 1 << 40), when=UNSTRUCTURED, help="values kept; 0 = by sparsity"
    )
    pattern: str = knob(
        "unstructured",
        Values(("unstructured", "n_m")),
        Values(("unstructured", "n_m")),
        help="entries anywhere, or n of every m in a row",
    )
    n: int = knob(
        2, IntRange(1, 255), Values((1, 2)), when=PATTERNED, help="values kept of every m"
    )
    m: int = knob(4, IntRange(2, 256), Values((4, 8)), when=PATTERNED, help="neighbours in a row")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from tile_problems(self.name, self.n, self.m)

    @property
    def tile(self) -> Tile | None:
        """See :attr:`SparseForm.tile`."""
        return Tile(self.n, self.m) if self.pattern == "n_m" else None

    def density(self, shape: Shape) -> tuple[int, int] | None:
        """See :meth:`Method.density`: where entries may be anywhere."""
        return None if self.tile else super().density(shape)

    def stored(self, shape: Shape) -> int:
        """See :meth:`SparseForm.stored`."""
        return self.tile.stored(shape) if self.tile else super().stored(shape)

    def keep(self, scores: Tensor) -> Tensor:
        """The mask of the highest scores (..., m, n): so many of every row, or n of every m."""
        if self.tile:
            return keep_tiles(scores, self.tile)
        return keep_top(scores, self.row_budget(scores))

    def row_budget(self, scores: Tensor) -> int:
        """Values to keep of each row of (..., m, n): as many as make up the budget, but one."""
        rows = scores[..., 0].numel()
        return evenly(self.budget(scores.numel()), rows) // rows

    def reached(self, shape: Shape, groups: int) -> int:
        """See :meth:`Unstructured.reached`; as many in every row."""
        if self.tile:
            return self.tile.stored(shape)
        return evenly(super().reached(shape, groups), shape[0])

    def _resolved(self, shape: Shape, mask: Tensor) -> SparseForm:
        return (
            SparseForm._resolved(self, shape, mask) if self.tile else super()._resolved(shape, mask)
        )
