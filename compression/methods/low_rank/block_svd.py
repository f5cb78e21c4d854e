"""Low rank in every tile of the matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compression.methods.base import METHODS, Method, Shape, matrix_shape
from compression.methods.levels import Nested
from compression.methods.low_rank.factors import Factors, halves, thin_svd
from compression.registry import IntRange, Values, knob
from compression.stats import LayerStats


@METHODS.register("block_svd")
class BlockSVD(Factors):
    """Each tile of h x w by its own truncated SVD, all of one rank.

    h = min(tile, m) and w = min(tile, n); where they do not divide the matrix, the last tiles reach
    over the edge and are filled up with zeros, which are stored like the rest. An energy chooses
    the least rank at which all tiles together keep it. One tile is ``svd``.

    Stored bytes: ``b T r (h + w)`` with ``T = ceil(m / h) ceil(n / w)`` tiles, r <= min(h, w) and b
    bytes a value.
    """

    catalogue_id = None
    crops_inner = False  # right factors lie below each other
    level_errors = Nested.level_errors  # what reaches over the edge is no error
    rank_formula = "m n / (T (h + w))"
    tile: int = knob(64, IntRange(2, 1 << 16), Values((64, 128)), help="height and width of a tile")

    def _tiles(self, shape: Shape) -> tuple[int, int, int, int]:
        """Tiles down and across, height and width of one."""
        rows, columns = matrix_shape(shape)
        high, wide = min(self.tile, rows), min(self.tile, columns)
        return -(-rows // high), -(-columns // wide), high, wide

    def _folded(self, shape: Shape) -> Shape:
        down, across, high, wide = self._tiles(shape)
        return down * across, high, wide

    def cut(self, weight: Tensor) -> Tensor:
        """The tiles (T, h, w) of a weight, row after row of them."""
        down, across, high, wide = self._tiles(tuple(weight.shape))
        matrix = weight.flatten(1)
        beyond = across * wide - matrix.shape[1], down * high - matrix.shape[0]
        padded = torch.nn.functional.pad(matrix, (0, beyond[0], 0, beyond[1]))
        return padded.view(down, high, across, wide).transpose(1, 2).reshape(-1, high, wide)

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        u, s, vh = thin_svd(self.cut(weight))
        return self._stored(*halves(u, s, vh, self.pick(s.double().square().sum(0))))

    def _unfold(self, folded: Tensor, shape: Shape) -> Tensor:
        down, across, high, wide = self._tiles(shape)
        matrix = folded.view(down, across, high, wide).transpose(1, 2)
        rows, columns = matrix_shape(shape)
        return matrix.reshape(down * high, across * wide)[:rows, :columns].reshape(shape)

    def linear(self, x: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Through the right factors of all tiles, then the left ones, summed across."""
        down, across, high, wide = self._tiles(shape)
        rows, columns = matrix_shape(shape)
        left = tensors["left"].to(x.dtype).view(down, across, high, -1)
        right = tensors["right"].to(x.dtype).view(down, across, -1, wide)
        padded = torch.nn.functional.pad(x, (0, across * wide - columns))
        inside = torch.einsum("...aw,darw->...dar", padded.view(*x.shape[:-1], across, wide), right)
        return torch.einsum("...dar,dahr->...dh", inside, left).flatten(-2)[..., :rows]

    def macs(self, shape: Shape) -> int:
        """``T r (h + w)``."""
        tiles, high, wide = self._folded(shape)
        return math.prod((tiles, self._rank(shape), high + wide))
