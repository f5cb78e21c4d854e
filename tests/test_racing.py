"""The race over seeds: it rarely drops who belongs to the front, and saves runs."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from analysis.fronts import non_dominated
from study.loop.racing import FEWEST, LEVEL, chances, filled, undecided

NOISE = 0.004  # of accuracies of small models between seeds
LOSSES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 3)),
    elements=st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5]),
)


def _race(losses):
    """Who is left after all rounds, and how many runs that took."""
    alive = np.ones(len(losses), dtype=bool)
    runs = len(losses)
    for k in range(1, losses.shape[1]):
        runs += alive.sum()
        alive[alive] = undecided(losses[alive, : k + 1])
    return alive, runs


def _study(rng, seeds=5):
    """Points within a margin of a true front, their seeds' noise, and who truly is on it."""
    ratio = np.sort(rng.uniform(0, 4, 12))
    quality = 0.97 - 0.02 * ratio - np.where(rng.random(12) < 0.5, 0.0, rng.uniform(0, 0.02, 12))
    truth = np.stack([-quality, -ratio], axis=1)
    losses = np.repeat(truth[:, None], seeds, axis=1)
    losses[:, :, 0] += rng.normal(0, NOISE, (12, seeds)) + rng.normal(0, NOISE, seeds)
    return losses, non_dominated(truth)


def test_members_rarely_leave_and_runs_are_saved():
    rng = np.random.default_rng(1)
    lost = members = runs = asked = needed = 0
    for _ in range(60):
        losses, on_front = _study(rng, seeds=10)
        alive, took = _race(losses)
        lost += int((on_front & ~alive).sum())
        members += int(on_front.sum())
        runs, asked = runs + took, asked + losses[:, :, 0].size
        # Who knows the truth drops the others as soon as that is allowed.
        needed += int(on_front.sum()) * 10 + int((~on_front).sum()) * FEWEST
    assert lost / members < LEVEL
    assert asked - runs > 0.5 * (asked - needed)


def test_without_noise_only_the_front_stays_once_it_may_leave():
    rng = np.random.default_rng(2)
    losses = np.repeat(rng.normal(size=(30, 1, 2)), 6, axis=1)
    alive, _ = _race(losses)
    assert (alive == non_dominated(losses[:, 0])).all()


@given(LOSSES)
def test_the_best_of_means_never_leaves_and_few_runs_decide_nothing(losses):
    stays = undecided(losses)
    assert stays[non_dominated(losses.mean(axis=1))].all()
    if losses.shape[1] < FEWEST:
        assert stays.all()


@given(LOSSES, st.integers(0, 5), st.integers(1, 5))
def test_chances_are_over_the_seeds_that_all_points_have(losses, point, least):
    """Who left after ``least`` seeds is held against the others on these, with its full spread."""
    point, least = point % len(losses), min(least, losses.shape[1])
    left = losses.copy()
    left[point, least:] = np.nan
    assert chances(left).tolist() == chances(losses[:, :least]).tolist()


@given(LOSSES, st.randoms(use_true_random=False))
def test_neither_order_of_points_nor_of_seeds_matters(losses, random):
    points, seeds = list(range(losses.shape[0])), list(range(losses.shape[1]))
    random.shuffle(points)
    random.shuffle(seeds)
    moved = losses[points][:, seeds]
    assert (undecided(moved) == undecided(losses)[points]).all()


def test_a_pair_is_told_apart_as_the_paired_t_test_does():
    rng = np.random.default_rng(3)
    left = []
    for _ in range(100):
        losses = np.zeros((2, 5, 2))
        losses[:, :, 0] = rng.normal(size=(2, 5)) + [[0.0], [1.0]]
        worse, better = losses[1, :, 0], losses[0, :, 0]
        p = stats.ttest_rel(worse, better, alternative="greater").pvalue
        assert bool(undecided(losses)[1]) == (p >= LEVEL)
        left.append(p < LEVEL)
    assert any(left)
    assert not all(left)


def test_twins_leave_no_more_often_than_the_level():
    rng = np.random.default_rng(4)
    losses = np.zeros((1500, 2, 4, 2))
    losses[..., 0] = rng.normal(size=(1500, 2, 4))
    gone = np.mean([not undecided(pair)[0] for pair in losses])
    assert gone == pytest.approx(LEVEL, abs=4 * np.sqrt(LEVEL / 1500))


def test_a_point_better_on_one_axis_stays_whatever_the_other():
    losses = np.zeros((2, 8, 2))
    losses[0, :, 0] = 1.0  # far worse, but always smaller
    losses[0, :, 1] = -1.0
    assert undecided(losses).all()


def test_runs_without_a_value_are_as_if_never_asked_for():
    rng = np.random.default_rng(5)
    losses = rng.normal(size=(6, 7, 2))
    holes = losses.copy()
    holes[:, [2, 5]] = np.nan
    kept = losses[:, [0, 1, 3, 4, 6]]
    assert (undecided(holes) == undecided(kept)).all()
    assert filled(holes).mean(axis=1) == pytest.approx(kept.mean(axis=1))


@given(LOSSES)
def test_chances_are_shares_and_somebody_is_always_on_the_front(losses):
    found = chances(losses)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert found.sum() >= 1 - 1e-9


@given(LOSSES)
def test_without_noise_chances_are_certain(losses):
    still = np.repeat(losses[:, :1], losses.shape[1], axis=1)
    assert chances(still) == pytest.approx(non_dominated(still[:, 0]).astype(float))


def test_chances_are_those_of_all_resamples():
    """The slow twin: every resample of the seeds, weighted by how often it is drawn."""
    rng = np.random.default_rng(6)
    seeds = 4
    losses = rng.normal(size=(5, seeds, 2))
    grid = np.stack(np.meshgrid(*[range(seeds)] * seeds), axis=-1).reshape(-1, seeds)
    exact = np.mean([non_dominated(losses[:, draw].mean(axis=1)) for draw in grid], axis=0)
    assert len({tuple(sorted(draw)) for draw in grid}) == comb(2 * seeds - 1, seeds)
    assert chances(losses) == pytest.approx(exact, abs=0.05)
