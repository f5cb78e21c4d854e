"""Fronts, ranks and volumes against brute-force twins and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.fronts import hypervolume, knee, non_dominated, ranks

# Few distinct values make ties and duplicates common.
clouds = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 14), st.integers(1, 4)),
    elements=st.integers(-3, 3).map(float),
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def slow_front(points: np.ndarray) -> list[bool]:
    return [not any(dominates(q, p) for q in points) for p in points]


def slow_ranks(points: np.ndarray) -> list[int]:
    left, found, layer = list(range(len(points))), [0] * len(points), 0
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in front:
            found[i] = layer
        left, layer = [i for i in left if i not in front], layer + 1
    return found


@given(clouds)
def test_front_and_ranks_equal_their_twins(points):
    assert non_dominated(points).tolist() == slow_front(points)
    assert ranks(points).tolist() == slow_ranks(points)


@given(clouds)
def test_the_front_is_the_layer_zero_and_inputs_stay(points):
    before = points.copy()
    points.setflags(write=False)
    assert (non_dominated(points) == (ranks(points) == 0)).all()
    hypervolume(points, np.full(points.shape[1], 4.0))
    assert (points == before).all()


@given(clouds, st.randoms(use_true_random=False))
def test_ranks_move_with_their_points(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    assert ranks(points[order]).tolist() == ranks(points)[order].tolist()


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1)])
def test_ranks_are_ranks_and_no_sort_order(order):
    """A sort order of a 3-cycle differs from its ranks; of a swap it does not."""
    chain = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert ranks(chain[list(order)]).tolist() == list(order)


def test_equal_points_are_all_kept():
    assert non_dominated([[1, 1], [1, 1], [2, 2]]).tolist() == [True, True, False]


def test_a_constant_objective_leaves_the_other_to_decide():
    assert non_dominated([[3, 1], [3, 0], [3, 0]]).tolist() == [False, True, True]


def test_nothing_has_an_empty_front():
    empty = np.empty((0, 2))
    assert non_dominated(empty).shape == ranks(empty).shape == (0,)
    assert hypervolume(empty, [1, 1]) == 0
    assert knee(empty) is None


@pytest.mark.parametrize("function", [non_dominated, ranks, knee])
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="NaN"):
        function([[0.0, np.nan], [1.0, 1.0]])


def slow_hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Cells of the unit grid below the reference that some point dominates."""
    axes = [range(-3, int(r)) for r in reference]
    return float(sum(any((p <= c).all() for p in points) for c in itertools.product(*axes)))


@given(clouds.filter(lambda a: 2 <= a.shape[1] <= 3))
def test_hypervolume_equals_the_cells_counted(points):
    reference = np.full(points.shape[1], 2.0)
    assert hypervolume(points, reference) == pytest.approx(slow_hypervolume(points, reference))


def test_hypervolume_of_a_box_and_of_points_outside():
    assert hypervolume([[0.5, 0.25]], [1, 1]) == pytest.approx(0.5 * 0.75)
    assert hypervolume([[0.5, 0.25], [-5, 1.0], [2, -9]], [1, 1]) == pytest.approx(0.375)
    with pytest.raises(ValueError, match="expected 2 values"):
        hypervolume([[0, 0]], [1, 1, 1])


def test_knee_is_the_corner_whatever_the_units():
    points = np.array([[0, 10], [1, 2], [2, 1.9], [10, 0], [11, 11]], float)
    assert knee(points) == 1
    assert knee(points * [1e6, 1e-6]) == 1


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0]],
        [[0, 1], [1, 0]],
        [[0, 2], [1, 1], [2, 0]],
        [[1, 1], [1, 1]],
        [[0, 2], [1.5, 1.5], [2, 0]],
    ],
)
def test_no_knee_on_points_lines_and_bulges_to_the_wrong_side(points):
    assert knee(points) is None


def test_large_clouds_are_quick():
    points = np.random.default_rng(0).normal(size=(10_000, 2))
    assert non_dominated(points).sum() >= 1
    assert hypervolume(points, [5, 5]) > 0
