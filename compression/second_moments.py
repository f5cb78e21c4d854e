"""What a change of a weight does to a layer's outputs, by the second moment of its inputs.

Inputs x of second moment ``H = E[x x^T]`` turn a change E of the weight into an output error
``E ||E x||^2 = tr(E H E^T)``. H is (n, n), or (G, n, n) for G groups of rows of the weight (m, n),
each with inputs of its own, in order: the weight is then seen as (G, m / G, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from compression.registry import InvalidSetting

LEAST = 1e-8  # damping, of the mean of the diagonal, at which a factorisation is tried first


def by_group(matrix: Tensor, groups: int) -> Tensor:
    """(G, m / G, n) of (m, ...): the rows of each group."""
    return matrix.reshape(groups, len(matrix) // groups, -1)


def row_errors(change: Tensor, moment: Tensor) -> Tensor:
    """``e H e^T`` of every row of a change (G, m / G, n), by the H (G, n, n): (G, m / G, 1)."""
    return (change @ moment * change).sum(2, keepdim=True)


def damped(moment: Tensor, damp: float | Tensor) -> Tensor:
    """``H + damp mean(diag H) I`` of (..., n, n), in its dtype; I where there is no input but 0.

    ``damp`` is one number, or one for each H, (...).
    """
    level = moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = torch.where(level > 0, damp * level, 1.0).to(moment.dtype)
    return moment + torch.diag_embed(ridge[..., None].expand(moment.shape[:-1]))


def cholesky(moment: Tensor, damp: float) -> Tensor:
    """The lower factor (G, n, n) of every :func:`damped` H (G, n, n), whatever the inputs.

    An H of which rounding leaves no factor is damped ten times more, as often as it takes.

    Raises:
        InvalidSetting: none leaves it one, as it is no second moment.
    """
    damping = torch.full_like(moment[..., 0, 0], max(damp, LEAST))
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(damped(moment, damping))
    while failed.any():
        if not torch.isfinite(damping).all():
            raise InvalidSetting(["calibration: second moments that are none, NaN among them, say"])
        damping = torch.where(failed > 0, 10 * damping, damping)
        factor, failed = torch.linalg.cholesky_ex(damped(moment, damping))
    return factor


def eigenvectors(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Of H (n, n), as columns, largest first, and the eigenvalues.

    What is below the rounding of float32, in which moments are collected, counts as zero.
    """
    values, vectors = torch.linalg.eigh(moment)
    noise = values[-1] * len(values) * torch.finfo(torch.float32).eps
    return vectors.flip(1), torch.where(values > noise, values, 0.0).flip(0)


def output_gram(error: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Q (m, k) with orthonormal columns and K (k, k), ``E H E^T = Q K Q^T``, k = min(m, n).

    ``moment`` is H, (n, n), or its diagonal, (n,). Float64: an eigenvalue of K is the square of a
    singular value, and keeps the digits that float32 has of that.
    """
    error = error.double()
    if error.shape[0] > error.shape[1]:
        basis, error = torch.linalg.qr(error)
    else:
        basis = torch.eye(len(error), dtype=error.dtype, device=error.device)
    half = error * moment if moment.ndim == 1 else error @ moment
    gram = half @ error.T
    return basis, (gram + gram.T) / 2


def output_directions(error: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (m, k) of ``E H E^T`` as in :func:`output_gram`, largest first, and eigenvalues.

    With ``H = S S^T`` these are the left singular vectors of ``E S``, and its squared values.
    """
    basis, gram = output_gram(error, moment)
    vectors, squares = eigenvectors(gram)
    return basis @ vectors, squares


def pivots(basis: Tensor) -> Tensor:
    """The r rows (r,) that tell the directions of a basis (m, r) apart, for a skeleton of a matrix.

    Gaussian elimination with row pivoting picks them (DEIM).
    """
    swaps = (torch.linalg.lu_factor(basis).pivots - 1).tolist()
    order = list(range(len(basis)))
    for row, other in enumerate(swaps):  # one swap builds on the other, and there are but r
        order[row], order[other] = order[other], order[row]
    return torch.tensor(order[: basis.shape[1]], device=basis.device)
