"""Factors that start at random, with a product of nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.inits.base import INITS, Compress, Init, Start
from compression.stats import LayerStats

_SIZE = 0.1
"""PEFT's factor on both."""


@INITS.register("orthogonal")
class Orthogonal(Init):
    """B = 0.1 X Q_1 and A = 0.1 Q_2^T Y with X, Y normal, [Q_1; Q_2] orthogonal (r, r): B A = 0.

    Q_1 and Q_2 are one half each of the rows of a random orthogonal matrix, so ``Q_1 Q_2^T = 0``:
    the start is the compressed model itself, with gradients for A and B alike. Up to rounding: an
    entry of B A is about 1e-9, some 2^-24 of what a product of such factors would have. Needs an
    even rank; a layer that is clamped to an odd one has the larger half in A. X is (m, r/2), Y
    (r/2, n). B is not 0 and is divided by the adapter's scale: alpha would only unbalance B and A.

    Source: PEFT's ``init_lora_weights="orthogonal"``, datta0.github.io/posts/rethink-lora-init.
    """

    guarantee = "frobenius"

    def rank_problem(self, rank: int) -> str | None:
        """See :meth:`Init.rank_problem`."""
        return f"init {self.name} needs an even rank, got {rank}" if rank % 2 else None

    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """See :meth:`Init.start`."""
        (rows, columns), half = weight.flatten(1).shape, rank // 2

        def normal(*shape: int) -> Tensor:
            return torch.empty(shape).normal_(generator=generator)

        # In double precision what is left of the product is the rounding of A and B themselves.
        q = torch.linalg.qr(normal(rank, rank).double()).Q
        b = _SIZE * normal(rows, half).double() @ q[:half]
        a = _SIZE * q[half:].T @ normal(rank - half, columns).double()
        return Start(compress(weight), b.to(weight), a.to(weight))
