"""Of the second moments H (G, n, n) of a layer's inputs, what only sparse methods use."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.second_moments import cholesky


def inverse_factor(moment: Tensor, damp: float) -> Tensor:
    """The upper U with ``H^-1 = U^T U`` of the damped H, without forming ``H^-1``.

    The Cholesky factor L of H with its order reversed gives it: U is ``L^-1`` reversed.
    """
    lower = cholesky(moment.flip(1, 2), damp)
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
