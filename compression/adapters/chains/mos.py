"""Factors put together from pieces of a common pool."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compression import philox
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import BASIS
from compression.adapters.chains.chained import Chain, Chained, random_matrix
from compression.adapters.chains.seeded import Seeded
from compression.methods.base import Shape, matrix_shape
from compression.registry import IntRange, Values, knob


@ADAPTERS.register("mos")
class Mos(Seeded):
    """MoS: ``y = W x + (alpha / r) B A x``, each row of A and column of B s shards of a pool.

    Layers of one shape and rank share pools of e vectors, each cut into s shards; which shards make
    up a layer's r - p vectors is drawn from ``seed`` and its name, none twice in a layer. p vectors
    are its own. All shards of B start at 0: the base exactly. e is ``pool_rank``, at least r - p;
    p is ``private_rank``, at most r; s is ``shards``, or its greatest common divisor with the width
    of the vectors. Stored bytes, for L layers of one shape: ``b (e + L p) (m + n)``, and 8 in all
    for the checksum of what was drawn. Published pools span layers of one type, here of one shape.

    Source: Wang et al., MoS, arXiv 2410.00938.
    """

    catalogue_id = "001-39"
    trained = frozenset({"pool_A", "pool_B", "private_A", "private_B"})
    shared = frozenset({"pool_A", "pool_B"})
    rebuilt = frozenset({"index_A", "index_B", BASIS})
    pool_rank: int = knob(4, IntRange(1, 4096), Values((2, 4, 8)), help="e, vectors in a pool")
    private_rank: int = knob(1, IntRange(0, 4096), Values((0, 1, 2)), help="p, vectors of a layer")
    shards: int = knob(2, IntRange(1, 256), Values((1, 2, 4)), help="s, pieces of a vector")

    def _ranks(self, rank: int) -> tuple[int, int]:
        """The numbers of vectors in a pool, e, and of a layer, p."""
        private = min(self.private_rank, rank)
        return max(self.pool_rank, rank - private), private

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        (rows, columns), (pool, private) = matrix_shape(shape), self._ranks(rank)
        pools: dict[str, Shape] = {"pool_A": (pool, columns), "pool_B": (pool, rows)}
        if not private:
            return pools
        return {**pools, "private_A": (private, columns), "private_B": (private, rows)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        shape = tuple(weight.shape)
        found = {
            suffix: torch.zeros(size) if suffix.endswith("B") else random_matrix(*size)
            for suffix, size in self.slots(shape, start.rank).items()
        }
        return self.again(name, shape, start.rank, found)

    def drawn(self, stream: str, shape: Shape, rank: int) -> dict[str, Tensor]:
        """See :meth:`Seeded.drawn`: the places of a layer's shards in the pools."""
        (rows, columns), (pool, private) = matrix_shape(shape), self._ranks(rank)
        found = {}
        for side, width in (("A", columns), ("B", rows)):
            pieces = math.gcd(self.shards, width)
            count = (rank - private) * pieces
            found[f"index_{side}"] = philox.subset(f"{stream}.{side}", count, pool * pieces)
        return found

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`."""
        own = layer.own()
        a, b = (self.vectors(own, side) for side in "AB")
        return [Chain(layer.scale, (a, b.T))]

    def vectors(self, own: dict[str, Tensor], side: str) -> Tensor:
        """A, or the transpose of B, (r, width): of shards, and below them the layer's own."""
        pool = own[f"pool_{side}"]
        width = pool.shape[1]
        pieces = pool.reshape(-1, width // math.gcd(self.shards, width))
        found = pieces[own[f"index_{side}"]].reshape(-1, width)
        private = own.get(f"private_{side}")
        return found if private is None else torch.cat([found, private])

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))
