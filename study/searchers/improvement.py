"""How much a point would add to a front: the hypervolume that it alone dominates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def growth(points: ArrayLike, front: ArrayLike, reference: ArrayLike) -> Array:
    """Area that each point dominates below ``reference`` and no point of the front does.

    sum over the steps i of the front: (width of step i right of x) * (height of step i - y), both
    at least 0, where step i reaches from one front point to the next and is as high as the first.

    Args:
        points: (n, 2) losses, smaller is better.
        front: (k, 2) losses, dominated ones among them do no harm.
        reference: (2,), the worst corner.

    Returns:
        (n,) areas.
    """
    at, corner = np.asarray(points, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    edges, heights = _steps(np.asarray(front, dtype=np.float64).reshape(-1, 2), corner)
    widths = np.minimum(edges[1:], corner[0]) - np.maximum(at[:, :1], edges[:-1])
    added: Array = (np.maximum(widths, 0.0) * np.maximum(heights - at[:, 1:], 0.0)).sum(axis=1)
    return added


def _steps(front: Array, corner: Array) -> tuple[Array, Array]:
    """Where the front's steps begin and end, (s + 1,), and their heights, (s,)."""
    order = np.lexsort((front[:, 1], front[:, 0]))
    x, y = front[order].T
    lowest = np.minimum.accumulate(np.concatenate([corner[1:], y]))
    lower = y < lowest[:-1]  # elsewhere a step goes on
    return np.concatenate([[-np.inf], x[lower], [np.inf]]), np.append(corner[1], y[lower])


def scalarised(points: ArrayLike, weights: ArrayLike) -> Array:
    """Augmented Tchebycheff distance of losses in [0, 1]: max_i w_i l_i + 0.05 sum_i w_i l_i.

    Args:
        points: (..., m) losses, scaled so that the front spans [0, 1].
        weights: (m,), at least 0.

    Returns:
        (...,) distances.

    Source: Knowles 2006, "ParEGO", IEEE Transactions on Evolutionary Computation 10.
    """
    weighted: Array = np.asarray(points, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    distance: Array = weighted.max(axis=-1) + 0.05 * weighted.sum(axis=-1)
    return distance
