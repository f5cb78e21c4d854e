"""Fronts as pure functions of a loss array (n, m): smaller is better, inputs are never changed."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["attained", "hypervolume", "knee", "non_dominated", "ranks"]


def _losses(losses: ArrayLike) -> NDArray[np.float64]:
    array = np.array(losses, dtype=np.float64, ndmin=2)
    if array.ndim != 2 or (array.size and array.shape[1] < 1):
        raise ValueError(f"losses: expected shape (n, m), got {array.shape}")
    if np.isnan(array).any():
        raise ValueError("losses: NaN cannot be compared; leave such points out")
    return array


def non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    a dominates b if a <= b in every column and a < b in one; equal points are all kept.

    Args:
        losses: (n, m), smaller is better.

    Returns:
        (n,) mask.

    Raises:
        ValueError: NaN, or not two-dimensional.
    """
    array = _losses(losses)
    if array.size == 0:
        return np.zeros(0, dtype=np.bool_)
    if array.shape[1] == 1:
        return np.asarray(array[:, 0] == array.min())
    return np.asarray(moocore.is_nondominated(array, keep_weakly=True), dtype=np.bool_)


def ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Non-dominated layer of each point: 0 is the front, 1 the front of what is left, ...

    Args:
        losses: (n, m), smaller is better.

    Returns:
        (n,) layer numbers; equal points share theirs.

    Raises:
        ValueError: NaN, or not two-dimensional.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II".
    """
    array = _losses(losses)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.shape[1] == 1:
        return np.unique(array[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(moocore.pareto_rank(array), dtype=np.int64)


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate within the box below ``reference``.

    Points that are not below the reference in every column add nothing.

    Args:
        losses: (n, m), smaller is better.
        reference: (m,), the worst corner, as losses.

    Raises:
        ValueError: NaN, or shapes that do not agree.

    Source: Zitzler & Thiele 1998, "Multiobjective optimization using evolutionary algorithms".
    """
    array = _losses(losses)
    corner = _losses(reference)[0]
    if array.size == 0:
        return 0.0
    if array.shape[1] != corner.size:
        raise ValueError(f"reference: expected {array.shape[1]} values, got {corner.size}")
    # Column by column: numpy's all() over short rows takes ten times as long.
    inside = np.logical_and.reduce([array[:, i] < corner[i] for i in range(corner.size)])
    return float(moocore.hypervolume(array if inside.all() else array[inside], ref=corner))


def knee(losses: ArrayLike) -> int | None:
    """The front point furthest below the line between the front's two ends.

    Both columns are first scaled to [0, 1] over the front, so units do not matter.

    Args:
        losses: (n, 2), smaller is better.

    Returns:
        Row number of the knee, or None where no front point lies below that line.

    Raises:
        ValueError: NaN, or not two columns.

    Source: Das 1999, "On characterizing the 'knee' of the Pareto curve".
    """
    array = _losses(losses)
    if array.size == 0:
        return None
    if array.shape[1] != 2:
        raise ValueError(f"losses: a knee needs two columns, got {array.shape[1]}")
    members = np.flatnonzero(non_dominated(array))
    front = array[members]
    span = np.ptp(front, axis=0)
    if not span.all():
        return None
    # On a front scaled to the unit square the ends are (0, 1) and (1, 0), their line x + y = 1.
    below = 1.0 - ((front - front.min(axis=0)) / span).sum(axis=1)
    best = int(below.argmax())
    return int(members[best]) if below[best] > 1e-12 else None


def attained(
    sets: Sequence[NDArray[np.float64]], percentiles: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Attainment surfaces: the front of what so many percent of the sets reach or beat.

    Args:
        sets: Repeated fronts, (n_i, 2) losses each, none of them empty.
        percentiles: In percent of the sets, rounded up to whole ones.

    Returns:
        For each percentile (k, 2) losses, the first column rising, the second falling.

    Raises:
        ValueError: NaN, or not two columns.

    Source: Fonseca, Guerreiro, Lopez-Ibanez & Paquete 2011, "On the computation of the empirical
    attainment function".
    """
    points = _losses(np.concatenate(sets))
    if points.shape[1] != 2:
        raise ValueError(f"sets: surfaces need two columns, got {points.shape[1]}")
    members = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    found = moocore.eaf(points, members, percentiles=list(percentiles))
    surfaces = [found[found[:, 2] == percentile][:, :2] for percentile in percentiles]
    return [surface[np.argsort(surface[:, 0])] for surface in surfaces]
