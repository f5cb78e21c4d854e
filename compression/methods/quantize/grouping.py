"""Runs of consecutive entries of a row that share one scale."""

from __future__ import annotations

import torch
from torch import Tensor

from compression.methods.base import Shape, matrix_shape


def group_counts(shape: Shape, group_size: int) -> tuple[int, int, int]:
    """(m, groups a row, entries a group) of a weight; group size 0 is the whole row."""
    rows, columns = matrix_shape(shape)
    size = min(group_size or columns, columns)
    return rows, -(-columns // size), size


def to_groups(weight: Tensor, group_size: int) -> Tensor:
    """(m, groups, size) of a weight; a short last group is filled up with zeros."""
    rows, groups, size = group_counts(tuple(weight.shape), group_size)
    matrix = weight.flatten(1)
    padded = torch.nn.functional.pad(matrix, (0, groups * size - matrix.shape[1]))
    return padded.view(rows, groups, size)


def from_groups(grouped: Tensor, shape: Shape) -> Tensor:
    """The inverse of :func:`to_groups`."""
    return grouped.flatten(1)[:, : matrix_shape(shape)[1]].reshape(shape)


def spread(scales: Tensor, shape: Shape, group_size: int) -> Tensor:
    """One value a group (m, groups) repeated over the entries, as a matrix (m, n)."""
    size = group_counts(shape, group_size)[2]
    return scales.repeat_interleave(size, dim=1)[:, : matrix_shape(shape)[1]]
