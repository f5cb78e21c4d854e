"""Low-rank corrections that are the best ones in a weighted norm, without a root or an inverse.

The rank-r matrix nearest to E (m, n) in ``||(E - X) S||_F`` is ``X = U U^T E``, with U (m, r) the
leading left singular vectors of E S: the published ``TSVD_r(E S) S^-1`` where S has an inverse, and
a minimum where it has none. U are the leading eigenvectors of ``E H E^T``, ``H = S S^T``. Since
``E - X = (I - U U^T) E``, the correction lowers the error in every norm ``||. T||_F`` at once,
Frobenius and that of the layer's outputs among them, whatever S was. For a convolution whose groups
have inputs of their own S is one for all, and some groups' outputs may end up further off: see
:func:`where_nearer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compression.inits.base import best_factors
from compression.registry import FloatRange, Values, knob
from compression.second_moments import by_group, output_directions, row_errors

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


def floored(weights: Tensor, least: float = 1e-4) -> Tensor:
    """Non-negative weights in float64, none below ``least`` times the largest; ones if all are 0.

    Inputs that calibration never saw stay in the norm, if barely.
    """
    weights = weights.double()
    largest = weights.max()
    return weights.clamp(min=least * largest) if largest > 0 else torch.ones_like(weights)


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
    basis = output_directions(high, moment)[0][:, :rank]
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


def where_nearer(
    factors: tuple[Tensor, Tensor], error: Tensor, moment: Tensor
) -> tuple[Tensor, Tensor]:
    """B and A with no rows of B but those of groups that have less output error for them.

    Args:
        factors: B (m, r) and A (r, n), of a correction that one group alone cannot lose by.
        error: E, (m, n), float32.
        moment: H of each group, (G, n, n).
    """
    b, a = factors
    groups = len(moment)
    if groups == 1:
        return factors
    before, after = (output_errors(e, moment) for e in (error, error - b @ a))
    return (by_group(b, groups) * (after < before)[:, None, None]).view_as(b), a


def output_errors(error: Tensor, moment: Tensor) -> Tensor:
    """``tr(E_g H_g E_g^T)`` (G,) of the rows of each group of E (m, n)."""
    return row_errors(by_group(error, len(moment)), moment).sum((1, 2))
