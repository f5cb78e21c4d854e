"""The growing front against the hypervolume of all its points, and how quick it is."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analysis.fronts import attained, hypervolume
from analysis.growth import Staircase

REFERENCE = (2.0, 2.0)
# Few distinct values make ties, duplicates and points outside of the box common.
points = st.tuples(st.integers(-3, 3).map(float), st.integers(-3, 3).map(float))


@given(st.lists(points, min_size=1, max_size=25))
def test_its_area_is_the_hypervolume_after_every_point(given_points):
    front = Staircase(REFERENCE)
    for count, point in enumerate(given_points, 1):
        before = front.area
        grew = front.add(point)
        assert front.area == hypervolume(given_points[:count], REFERENCE)
        assert grew == (front.area > before)


def test_ten_thousand_points_that_all_count_take_less_than_two_seconds():
    """The worst case: every point is on the front."""
    x = np.random.default_rng(0).permutation(np.linspace(0, 1, 10_000))
    front, start = Staircase((2.0, 2.0)), time.process_time()
    for value in x.tolist():
        front.add((value, 1 - value))
    assert time.process_time() - start < 2
    assert np.isclose(front.area, hypervolume(np.stack([x, 1 - x], axis=1), (2, 2)))


sets = st.lists(st.lists(points, min_size=1, max_size=6), min_size=1, max_size=5)


@given(sets, st.sampled_from([20.0, 50.0, 75.0, 100.0]), points)
def test_what_a_surface_dominates_so_many_of_the_sets_attain(given_sets, percentile, at):
    (surface,) = attained([np.array(one) for one in given_sets], [percentile])
    reach = [any(x <= at[0] and y <= at[1] for x, y in one) for one in given_sets]
    within = any(x <= at[0] and y <= at[1] for x, y in surface)
    assert within == (100 * sum(reach) >= percentile * len(given_sets))


def test_surfaces_nest():
    rng = np.random.default_rng(1)
    quarter, half, all_ = attained([rng.normal(size=(20, 2)) for _ in range(8)], [25, 50, 100])
    areas = [hypervolume(surface, (9, 9)) for surface in (quarter, half, all_)]
    assert areas == sorted(areas, reverse=True)
    for surface in (quarter, half, all_):
        assert (np.diff(surface[:, 0]) > 0).all()
        assert (np.diff(surface[:, 1]) < 0).all()
