"""The contract of an init: what the base becomes, and where the adapter starts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from compression.methods.base import CompressedWeight
from compression.registry import Plugin, Registry
from compression.stats import LayerStats, Need

Compress = Callable[[Tensor], CompressedWeight]


class Start(NamedTuple):
    """A compressed base and the factors of the delta ``B A`` at scale 1.

    B is (out, rank) and A is (rank, in), where in = in_channels/groups * kh * kw for a convolution.
    """

    base: CompressedWeight
    B: Tensor
    A: Tensor


class Init(Plugin, ABC):
    """Where an adapter starts, and what is compressed: some inits change the weight first.

    ``guarantee`` names the norm in which the start ``base + B A`` is never further from W than
    that of ``zeros``: Frobenius, the norm of the layer's outputs on calibration data, that of
    ``lq_lora`` (row and column weights of the Fisher information), or none.
    """

    guarantee: ClassVar[Literal["frobenius", "activation", "fisher", "none"]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What calibration has to compute for it."""
    fixes_alpha: ClassVar[bool] = True
    """Whether it starts at a delta of its own: at scale 1, so that alpha would only unbalance B, A.

    Where it starts at B = 0 alpha scales all that is learnt.
    """

    def rank_problem(self, rank: int) -> str | None:
        """What is wrong with a rank, whatever the layer; nothing by default."""
        return None

    @abstractmethod
    def start(
        self,
        weight: Tensor,
        compress: Compress,
        rank: int,
        stats: LayerStats | None,
        generator: torch.Generator | None,
    ) -> Start:
        """Compress the weight, or what is left of it, and make the factors.

        Args:
            weight: W, float32, (out, in) or (out, in/groups, kh, kw); not changed.
            compress: packs a weight of the same shape.
            rank: from 1 to min(out, in).
            stats: of the layer's inputs, if calibrated.
            generator: of the random entries; torch's global one if None.
        """


INITS: Registry[Init] = Registry("init", Init)


def random_rows(rank: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """A (rank, columns) uniform in +-1/sqrt(columns), as LoRA starts it (Kaiming, a = sqrt 5)."""
    bound = 1 / math.sqrt(columns)
    return torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)


def live_rows(rows: Tensor, alive: Tensor, generator: torch.Generator | None) -> Tensor:
    """A (rank, n) as given where ``alive`` (rank,), and random where there is nothing to start at.

    A direction whose factors were both zero would get no gradient.
    """
    rank, columns = rows.shape
    return torch.where(alive[:, None], rows, random_rows(rank, columns, generator).to(rows))


def best_factors(
    matrix: Tensor, rank: int, scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """B (m, rank), A (rank, n) with B A the nearest rank-r matrix: ``U sqrt(S), sqrt(S) V^T``.

    A direction with no weight in it (below rounding of a matrix of norm ``scale``) would start
    with both factors at zero, where neither has a gradient: there B is 0 and A random.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    root = s.sqrt()
    alive = s > torch.finfo(s.dtype).eps * max(matrix.shape) * scale
    return u * (root * alive), live_rows(root[:, None] * vh, alive, generator)
