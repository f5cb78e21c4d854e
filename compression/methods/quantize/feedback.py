"""Rounding that makes up for its own errors, by the second moment of what is multiplied.

For inputs of second moment H the output error of ``E = W - W'`` is ``tr(E H E^T)``. With
``H = (I + U) D (I + U)^T``, U strictly upper triangular, it is ``||E (I + U) D^(1/2)||^2``: a
column rounded after those before it, at ``w_j + sum_{i<j} e_i U_ij``, leaves of it only D_j times
the square of what that rounding itself was off by.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compression.methods.quantize.uniform import Grid
from compression.second_moments import cholesky

BLOCK = 64  # columns whose errors are passed on together
TILE = 128  # rows and columns that are rounded diagonal by diagonal


def unit_upper(moment: Tensor, damping: float) -> Tensor:
    """U (G, n, n) of ``H + d I = (I + U) D (I + U)^T``, d the mean diagonal times ``damping``.

    More where :func:`cholesky` in float64 takes more.
    """
    factor = cholesky(moment.double().flip(1, 2), damping)  # lower; flipped back, it is upper
    upper = factor.flip(1, 2)
    unit: Tensor = upper / upper.diagonal(dim1=1, dim2=2).unsqueeze(1)
    return unit.triu(1).to(torch.float32)


def round_columns(weight: Tensor, grid: Grid, upper: Tensor) -> Tensor:
    """Codes (G, n, r) of transposed weights (G, n, r), rounded one input after the other.

    Args:
        weight: the transposed weights.
        grid: with step and zero (G, n, r).
        upper: U (G, n, n), strictly upper triangular; of zeros, this is rounding to nearest.
    """
    heard_of = upper.transpose(1, 2).contiguous()  # row j: what j makes up for
    codes, error = torch.empty_like(weight), torch.zeros_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        block = weight[:, start:end] + heard_of[:, start:end, :start] @ error[:, :start]
        for j in range(start, end):
            column = Grid(grid.scale, grid.step[:, j], grid.zero[:, j], grid.top)
            near = heard_of[:, j : j + 1, start:j] @ error[:, start:j]
            codes[:, j] = column.codes(block[:, j - start] + near.squeeze(1))
            error[:, j] = weight[:, j] - column.points(codes[:, j])
    return codes


def round_diagonals(weight: Tensor, grid: Grid, upper: Tensor, outer: Tensor) -> Tensor:
    """Codes (1, n, m) of transposed weights (1, n, m), making up for errors both ways.

    An entry hears of the errors of earlier columns in its row, by U, and of what came of earlier
    rows in its column, by V: all of a diagonal can be rounded together. Goes tile by tile, so that
    most of what is heard are products of matrices.

    Args:
        weight: the transposed weights.
        grid: with step and zero (1, n, m).
        upper: U (1, n, n) of the inputs, strictly upper triangular.
        outer: V (m, m) of the outputs, likewise; of zeros, this is :func:`round_columns`.
    """
    values, step, zero = (part[0].T.contiguous() for part in (weight, grid.step, grid.zero))
    codes, error, heard = (torch.zeros_like(values) for _ in range(3))
    for columns in _tiles(values.shape[1]):
        earlier = slice(0, columns.start)
        before = error[:, earlier] @ upper[0, earlier, columns]
        for rows in _tiles(values.shape[0]):
            above = outer[: rows.start, rows].T @ heard[: rows.start, columns]
            part = Grid(grid.scale, step[rows, columns], zero[rows, columns], grid.top)
            codes[rows, columns], error[rows, columns], heard[rows, columns] = _round_tile(
                (values[rows, columns], before[rows], above),
                part,
                upper[0, columns, columns],
                outer[rows, rows],
            )
    return codes.T.unsqueeze(0)


def _tiles(count: int) -> list[slice]:
    return [slice(start, min(start + TILE, count)) for start in range(0, count, TILE)]


def _round_tile(
    known: tuple[Tensor, Tensor, Tensor], grid: Grid, upper: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, E and E (I + U) of a tile of W and what it hears from the left and from above."""
    # Columns in reverse, so that diagonals from the first entry to the last are torch's.
    values, left, above = (part.flip(1) for part in known)
    step, zero = grid.step.flip(1), grid.zero.flip(1)
    along, across = upper.T.flip(0, 1).contiguous(), outer.T.contiguous()
    rows, columns = values.shape
    codes, error = torch.empty_like(values), torch.zeros_like(values)
    lying = torch.zeros(columns, rows, device=values.device)  # E (I + U) transposed
    for offset in range(columns - 1, -rows, -1):
        here = slice(max(0, -offset), min(rows, columns - offset))
        there = slice(here.start + offset, here.stop + offset)
        entries = Grid(grid.scale, step.diagonal(offset), zero.diagonal(offset), grid.top)
        value, before = values.diagonal(offset), left.diagonal(offset)
        before = before + (error[here] * along[there]).sum(1)
        higher = above.diagonal(offset) + (lying[there] * across[here]).sum(1)
        chosen = entries.codes(value + before + higher)
        off = value - entries.points(chosen)
        codes.diagonal(offset).copy_(chosen)
        error.diagonal(offset).copy_(off)
        lying.diagonal(-offset).copy_(off + before)
    return codes.flip(1), error.flip(1), lying.T.flip(1)
