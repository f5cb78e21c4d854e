"""Ranks at which factors save nothing."""

from __future__ import annotations

from collections.abc import Mapping

from compression.methods import Method
from compression.methods.base import Shape, matrix_shape


def oversized(method: Method, shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with a rank at which no layer's factors have fewer values than its weight.

    The weight itself would be exact then. That holds of chains as well: whatever stores the
    factors in fewer bits or without zeros could store the weight. Where the rank suits some layers,
    it is nothing wrong, and the others get a note when they are compressed.
    """
    limits = {name: method.rank_limit(shape) for name, shape in shapes.items()}
    reached = [(limit.least, name) for name, limit in limits.items() if limit and limit.reached]
    if not shapes or len(reached) < len(shapes):
        return None
    least, name = max(reached)
    limit = limits[name]
    return limit and (
        f"{method.name}: at rank {limit.asked} the factors have no fewer values than the weight in "
        f"any target layer; the limit {limit.formula} is largest for '{name}', {least:.1f}"
    )


def smaller_rank(shape: Shape) -> int:
    """The greatest r with ``r (m + n) < m n``: of factors that have fewer values than W."""
    rows, columns = matrix_shape(shape)
    return (rows * columns - 1) // (rows + columns)


def no_smaller(rank: int, most: int) -> str:
    """What is wrong with a rank above :func:`smaller_rank` of every layer."""
    return (
        f"rank {rank}: the factors would have no fewer values than the weight in any target layer "
        f"(m n / (m + n) is reached); expected at most {most}"
    )
