"""Who is still in a race over seeds. Pure: losses (n, k, m) of n points, k seeds, m objectives.

Smaller is better, all points have the same seeds, NaN stands for a run that has no value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fronts import non_dominated

FEWEST = 3
"""Runs before a point may leave: of two, as metrics are counts, too often the differences agree."""
LEVEL = 0.05
RESAMPLES = 2000

Losses = NDArray[np.float64]


def undecided(losses: Losses) -> NDArray[np.bool_]:
    """Which points may still belong to the front of means; (n,) mask.

    A point leaves once another is shown to be no worse in any objective and better in one: each
    objective is tested by a one-sided paired t-test over seeds at 5%, and all have to be passed
    (an intersection-union test, Berger 1982), where a difference that no seed changes is known.
    As in F-Race (Birattari et al. 2002) it takes the t-test rather than resampled seeds: of three
    seeds there are ten different resamples, whose tails are far too short. A pair at a time and
    with no correction for the rounds, as t-races do: a point that leaves by mistake had a twin.
    """
    if losses.shape[1] < FEWEST:
        return np.ones(len(losses), dtype=np.bool_)
    rivals = losses[non_dominated(filled(losses).mean(axis=1))]
    difference = losses[:, None] - rivals[None]  # above 0: worse than that rival
    seeds = (~np.isnan(difference)).sum(axis=2)
    total = np.nansum(difference, axis=2)
    mean = total / np.maximum(seeds, 1)
    squares = np.nansum((difference - mean[:, :, None]) ** 2, axis=2)
    error = np.sqrt(squares / np.maximum(seeds - 1, 1) / np.maximum(seeds, 1))
    rounding = 1e-12 * np.nanmax(np.abs(losses), axis=(0, 1))
    known = error <= rounding
    t: Any = mean / np.where(known, 1.0, error)
    tested: Any = stats.t.sf(t, np.maximum(seeds - 1, 1))
    p = np.where(known, np.where(mean >= -rounding, 0.0, 1.0), tested).max(axis=2)
    beaten = (p < LEVEL) & (mean > rounding).any(axis=2) & (seeds.min(axis=2) >= FEWEST)
    return np.asarray(~beaten.any(axis=1))


def chances(losses: Losses) -> NDArray[np.float64]:
    """How often each point is on the front of means when seeds are drawn anew; (n,) in [0, 1].

    Seeds are resampled for all points together: they are paired. Of those alone that all points
    have a value of: what left early says nothing of the others.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    common = ~np.isnan(losses).any(axis=(0, 2))
    known = losses[:, common] if common.any() else filled(losses)
    seeds = known.shape[1]
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    # Few seeds have few different resamples: each front is computed once, and counted.
    counts = np.sort(drawn, axis=1)
    resamples, times = np.unique(counts, axis=0, return_counts=True)
    found = [non_dominated(known[:, resample].mean(axis=1)) for resample in resamples]
    return np.asarray((np.array(found) * times[:, None]).sum(axis=0) / RESAMPLES)


def filled(losses: Losses) -> Losses:
    """Each run without a value counts as the mean of its point's others."""
    missing = np.isnan(losses)
    seeds = (~missing).sum(axis=1, keepdims=True)
    mean = np.nansum(losses, axis=1, keepdims=True) / np.maximum(seeds, 1)
    return np.where(missing, mean, losses)
