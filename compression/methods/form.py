"""Shapes, and what a method says of the tensors that it stores."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

Part = Literal["base", "scales", "indices", "adapter", "untouched", "header"]
Shape = tuple[int, ...]


class Slot(NamedTuple):
    """One packed tensor: its dtype and shape, and the part of the file it counts under."""

    dtype: torch.dtype
    shape: Shape
    part: Part

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


class RankLimit(NamedTuple):
    """A rank that was set, and the least one whose factors have as many values as the weight.

    The latter is real: ``m n / (m + n)`` of two factors; ``formula`` says so to people.
    """

    asked: int
    least: float
    formula: str = "m n / (m + n)"

    @property
    def reached(self) -> bool:
        """Whether the factors save nothing, where the weight itself would be exact."""
        return self.asked >= self.least


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(m, n) of ``W.flatten(1)``."""
    return shape[0], math.prod(shape[1:])
