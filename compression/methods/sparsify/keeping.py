"""Which entries are kept: the highest of all, or so many of every few neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from compression.methods.base import Shape, matrix_shape


class Tile(NamedTuple):
    """``n`` values kept of every ``m`` neighbours in a row."""

    n: int
    m: int

    def count(self, columns: int) -> int:
        """Tiles in a row; the last one may reach over its end."""
        return -(-columns // self.m)

    def stored(self, shape: Shape) -> int:
        """Values kept in all tiles of a matrix."""
        rows, columns = matrix_shape(shape)
        return rows * self.count(columns) * self.n


def tile_problems(name: str, n: int, m: int) -> Iterator[str]:
    """What is wrong with keeping n of m."""
    if n >= m:
        yield f"{name}.n: has to be below m to leave anything out, got {n} of {m}"


def keep_top(scores: Tensor, count: int) -> Tensor:
    """The mask of the ``count`` highest scores along the last dimension."""
    best = scores.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def keep_tiles(scores: Tensor, tile: Tile) -> Tensor:
    """The mask of the n highest of every m neighbours; beyond the end of a row come last."""
    columns = scores.shape[-1]
    filled = torch.nn.functional.pad(scores, (0, -columns % tile.m), value=-math.inf)
    mask = keep_top(filled.view(*scores.shape[:-1], -1, tile.m), tile.n)
    return mask.flatten(-2)[..., :columns]


def share(cells: int, sparsity: float) -> int:
    """``round((1 - sparsity) cells)``, at least 1."""
    return max(1, round((1 - sparsity) * cells))


def evenly(count: int, parts: int) -> int:
    """The values that so many parts keep in all, as many in each and at least one."""
    return parts * max(1, round(count / parts))
