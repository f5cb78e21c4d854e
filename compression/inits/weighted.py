"""Low-rank corrections that are the best ones in a weighted norm, without a root or an inverse.

The rank-r matrix nearest to E (m, n) in ``||(E - X) S||_F`` is ``X = U U^T E``, with U (m, r) the
leading left singular vectors of E S: the published ``TSVD_r(E S) S^-1`` where S has an inverse, and
a minimum where it has none. U are the leading eigenvectors of ``E H E^T``, ``H = S S^T``. Since
``E - X = (I - U U^T) E``, the correction lowers the error in every norm ``||. T||_F`` at once,
Frobenius and that of the layer's outputs among them, whatever S was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compression.inits.base import best_factors
from compression.registry import FloatRange, Values, knob

ENOUGH = 1e-7  # of the trace: orthogonal iteration ends with a step that gains less


def damping_knob() -> Any:
    """How much of an even norm goes into that of the outputs.

    The default is what does best on held-out inputs of EfficientNet-Lite0, where 0.01 and 1 cost
    up to 0.1 dB; with inputs from fewer examples than there are inputs more of it helps more.
    """
    return knob(
        0.3,
        FloatRange(0.0, 100.0),
        Values((0.03, 0.3, 1.0)),
        help="share of the mean of diag H that is added to H",
    )


def damped(moment: Tensor, damping: float) -> Tensor:
    """``H + damping * mean(diag H) I`` (n, n) in float64; I if there were no inputs but zero."""
    moment = moment.double()
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    mean = moment.diagonal().mean()
    return moment + damping * mean * identity if mean > 0 else identity


def floored(weights: Tensor, least: float = 1e-4) -> Tensor:
    """Non-negative weights in float64, none below ``least`` times the largest; ones if all are 0.

    Inputs that calibration never saw stay in the norm, if barely.
    """
    weights = weights.double()
    largest = weights.max()
    return weights.clamp(min=least * largest) if largest > 0 else torch.ones_like(weights)


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


def leading(error: Tensor, moment: Tensor, rank: int) -> Tensor:
    """U (m, rank): the leading left singular vectors of E S, for ``S S^T = H`` as above."""
    basis, gram = output_gram(error, moment)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return basis @ vectors[:, -rank:].flip(1)


def balanced(
    left: Tensor, right: Tensor, scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """B (m, r) and A (r, n), float32, with ``B A = left right`` and ``B^T B = A A^T``.

    Directions below rounding of a matrix of norm ``scale`` are as in :func:`best_factors`.
    """
    basis, core = torch.linalg.qr(left)
    inner, a = best_factors((core @ right).float(), len(right), scale, generator)
    return basis.float() @ inner, a


def weighted_factors(
    error: Tensor,
    moment: Tensor,
    rank: int,
    scale: float,
    generator: torch.Generator | None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Balanced factors of ``argmin_X ||diag(rows) (E - X) S||_F`` over matrices X of this rank.

    Args:
        error: E, (m, n).
        moment: ``S S^T``, float64, (n, n), or (n,) where it is diagonal.
        rank: from 1 to min(m, n).
        scale: norm of the weight that E is an error of.
        generator: of the random entries.
        rows: positive weights of the rows, (m,); ones if None.
    """
    heights = torch.ones(len(error), dtype=torch.float64) if rows is None else rows.double()
    heights = heights.to(error.device)[:, None]
    high = error.double() * heights
    basis = leading(high, moment, rank)
    return balanced(basis / heights, basis.T @ high, scale, generator)


def dominant(gram: Tensor, first: Tensor, steps: int) -> Tensor:
    """An orthonormal basis (k, r) near the leading eigenvectors of a positive K (k, k).

    Orthogonal iteration from ``first`` (k, r), at most ``steps`` bases: the trace of ``U^T K U``
    falls with none of them, and goes to its maximum.
    """
    basis: Tensor = torch.linalg.qr(first).Q
    held, whole = 0.0, float(gram.trace())
    for _ in range(steps - 1):
        moved = gram @ basis
        now = float((basis * moved).sum())
        if now - held <= ENOUGH * whole:
            break
        basis, held = torch.linalg.qr(moved).Q, now
    return basis


def output_error(change: Tensor, moment: Tensor) -> float:
    """``||C S||_F = sqrt tr(C H C^T)``: with H of the inputs, the norm of the outputs' change."""
    change = change.to(moment.dtype)
    half = change * moment if moment.ndim == 1 else change @ moment
    return float((half * change).sum().clamp(min=0).sqrt())
