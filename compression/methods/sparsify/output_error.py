"""What a change of the weight does to a layer's outputs, by the second moment of its inputs.

A weight is seen as (G, m / G, n): G groups of rows, each with inputs of its own; H is (G, n, n).
The error of a row's change e is ``e H e^T``, the mean of ``(e x)^2`` over calibration inputs x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compression.stats import InputStats


def by_group(weight: Tensor, inputs: InputStats) -> Tensor:
    """``W.flatten(1)`` as (G, m / G, n)."""
    groups, columns, _ = inputs.second_moment.shape
    return weight.reshape(groups, -1, columns)


def row_errors(change: Tensor, moment: Tensor) -> Tensor:
    """``e H e^T`` of every row of a change (G, m / G, n): (G, m / G, 1)."""
    return (change @ moment * change).sum(2, keepdim=True)


def damped(moment: Tensor, damp: float) -> Tensor:
    """``H + damp mean(diag H) I``, positive definite whatever the inputs; I alone for H = 0."""
    level = moment.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(level > 0, damp * level, 1.0)
    return moment + torch.diag_embed(ridge[:, None].expand(moment.shape[:2]))


def inverse_factor(moment: Tensor, damp: float) -> Tensor:
    """The upper U with ``H^-1 = U^T U`` of the damped H, without forming ``H^-1``.

    The Cholesky factor L of H with its order reversed gives it: U is ``L^-1`` reversed. Damped ten
    times more, as often as it takes, where rounding leaves H no factor.
    """
    backwards = moment.flip(1, 2)
    lower, failed = torch.linalg.cholesky_ex(damped(backwards, damp))
    while failed.any():
        damp *= 10
        lower, failed = torch.linalg.cholesky_ex(damped(backwards, damp))
    identity = torch.eye(moment.shape[1], dtype=moment.dtype, device=moment.device)
    reversed_factor: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return reversed_factor.flip(1, 2)


def largest_eigenvalue(moment: Tensor, steps: int = 50) -> Tensor:
    """Of each H, (G, 1, 1), from below, by power iteration."""
    vector: Tensor = moment.sum(2, keepdim=True)
    for _ in range(steps):
        vector = moment @ torch.nn.functional.normalize(vector, dim=1)
    largest: Tensor = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    return largest
