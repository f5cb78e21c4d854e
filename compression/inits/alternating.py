"""Fitting a compressed base and low-rank factors to each other in turn, in any norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compression.inits.base import Compress, Start

Correct = Callable[[Tensor], tuple[Tensor, Tensor]]


def alternate(
    weight: Tensor,
    compress: Compress,
    iterations: int,
    correct: Correct,
    norm: Callable[[Tensor], float],
) -> Start:
    """The best in ``norm`` of the iterates base = C(W - B A), B A = correct(W - base).

    The first has base = C(W). The error can rise from one to the next, hence the last is not
    taken blindly.

    Args:
        weight: W, of any layer's shape.
        compress: packs a weight of that shape.
        iterations: how often the weight is compressed.
        correct: factors of a correction of an error (m, n).
        norm: of an error (m, n).
    """
    matrix = weight.flatten(1)

    def iterate(delta: Tensor) -> tuple[float, Start]:
        base = compress((matrix - delta).view_as(weight))
        left = matrix - base.dense().flatten(1)
        b, a = correct(left)
        return norm(left - b @ a), Start(base, b, a)

    now = best = iterate(torch.zeros_like(matrix))
    for _ in range(iterations - 1):
        now = iterate(now[1].B @ now[1].A)
        best = min(best, now, key=lambda found: found[0])
    return best[1]
