"""Intervals hold what they promise: checked by exact enumeration and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import synthetic_study as synthetic
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from analysis.columns import points
from analysis.load import StudyData
from analysis.stats import (
    certify,
    drop_interval,
    drop_upper,
    fewest_changes,
    mean_interval,
    smallest_detectable,
)
from analysis.summary_ground import resolution
from trainables.record import Objective, Paired

Y = Objective("val_accuracy", unit="fraction")


@st.composite
def comparisons(draw):
    n = draw(st.integers(1, 2000))
    b = draw(st.integers(0, n))
    return Paired(n, b, draw(st.integers(0, n - b)))


def enumerate_pairs(n: int, only_reference: float, only_model: float):
    """Every likely outcome of n paired examples with its probability."""
    either = only_reference + only_model
    for total in range(n + 1):
        weight = binom.pmf(total, n, either)
        if weight < 1e-7:
            continue
        for b, share in enumerate(binom.pmf(range(total + 1), total, only_reference / either)):
            if weight * share > 1e-8:
                yield Paired(n, b, total - b), weight * share


@pytest.mark.parametrize("n", [300, 719])
@pytest.mark.parametrize("disagreement", [0.01, 0.015, 0.03, 0.06])
def test_a_false_certificate_is_as_rare_as_promised(n, disagreement):
    """At a true drop of exactly the margin, the worst case, over all outcomes."""
    margin = 0.01
    b, c = (disagreement + margin) / 2, (disagreement - margin) / 2
    error = sum(p for pair, p in enumerate_pairs(n, b, c) if drop_upper(pair) < margin)
    assert error <= 0.0505


@pytest.mark.parametrize(("b", "c"), [(0.02, 0.005), (0.05, 0.05), (0.004, 0.004), (0.3, 0.1)])
def test_two_sided_intervals_cover(b, c):
    rng = np.random.default_rng(3)
    draws = rng.multinomial(719, [b, c, 1 - b - c], size=1500)
    counts = {tuple(row): 0 for row in draws[:, :2].tolist()}
    for row in draws[:, :2].tolist():
        counts[tuple(row)] += 1
    covered = 0
    for (only_reference, only_model), times in counts.items():
        interval = drop_interval(Paired(719, only_reference, only_model))
        covered += times * (interval.lower <= b - c <= interval.upper)
    # 0.95 minus three standard errors of 1,500 draws.
    assert covered / 1500 >= 0.933


@given(comparisons())
def test_intervals_hold_the_estimate_and_mirror(pair):
    interval = drop_interval(pair)
    assert -1 <= interval.lower <= pair.drop <= interval.upper <= 1
    mirror = drop_interval(Paired(pair.n, pair.only_model, pair.only_reference))
    assert mirror.lower == pytest.approx(-interval.upper, abs=1e-8)
    assert drop_upper(pair) <= interval.upper + 1e-9


def test_intervals_shrink_with_n_and_do_not_vanish_without_disagreement():
    small, large = drop_upper(Paired(100, 3, 2)), drop_upper(Paired(10_000, 300, 200))
    assert small > large > 0.01
    # As the exact rule for no event in n: 1 - 0.05^(1/n), about 3 / n.
    assert drop_upper(Paired(719, 0, 0)) == pytest.approx(1 - 0.05 ** (1 / 719), rel=0.15)


def test_certify_stops_at_the_first_failure():
    good, bad = drop_upper(Paired(719, 1, 1)), drop_upper(Paired(719, 40, 1))
    assert certify([good, good, bad, good]) == 2
    assert certify([bad, good]) == 0
    assert certify([]) == 0
    assert certify([good] * 3) == 3


def test_certify_keeps_the_family_error():
    """Many points that all drop by just the margin: some false certificate in at most 5%."""
    rng = np.random.default_rng(0)
    families, false = 1500, 0
    for _ in range(families):
        counts = rng.multinomial(719, [0.02, 0.01, 0.97], size=10)
        false += certify([drop_upper(Paired(719, int(b), int(c))) for b, c, _ in counts]) > 0
    # Three standard errors above 0.05; testing each alone would give 0.4.
    assert false / families <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)


def test_smallest_detectable_is_detected_as_often_as_said():
    n, share = 719, 0.05
    drop = smallest_detectable(n, share)
    assert drop is not None
    b, c = (share + drop) / 2, (share - drop) / 2
    # Detected: the lower bound of the drop, the mirrored upper bound, is above 0.
    power = sum(
        p
        for pair, p in enumerate_pairs(n, b, c)
        if drop_upper(Paired(n, pair.only_model, pair.only_reference)) < 0
    )
    assert power == pytest.approx(0.8, abs=0.03)
    assert smallest_detectable(4 * n, share) < drop


@pytest.mark.parametrize("n", [5, 20, 719, 10_000])
@pytest.mark.parametrize("changes", [0, 1, 3])
def test_what_few_changes_can_show_is_what_an_exact_test_tells(n, changes):
    """A model that only loses, as much as said: enough changes for a sign test, 4 times in 5."""
    fewest = fewest_changes()
    assert binom.sf(fewest - 1, fewest, 0.5) <= 0.05 < binom.sf(fewest - 2, fewest - 1, 0.5)
    drop = smallest_detectable(n, changes / n)
    assert drop is not None
    assert binom.sf(fewest - 1, n, drop) >= 0.8 - 1e-9
    assert drop > changes / n
    if not changes:
        assert binom.sf(fewest - 1, n, 0.99 * drop) < 0.8


def test_so_few_examples_that_nothing_can_be_told():
    assert smallest_detectable(fewest_changes() - 1, 0.5) is None


def test_a_lossless_model_is_not_said_to_show_a_difference_of_nothing():
    row = synthetic.baselines()[2]
    check = synthetic.verification(row.record, 0, 0)
    (point,) = points(StudyData("x", synthetic.info(), (row,), {check.trial_id: check}), [row], Y)
    text = resolution(point, Y)
    assert "0.00 pp" not in text
    assert "no difference is told from chance: that takes 5" in text


@pytest.mark.parametrize("arguments", [(0, 0.1), (10, -0.1), (10, 1.1)])
def test_smallest_detectable_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="expected n >= 1"):
        smallest_detectable(*arguments)


def test_mean_interval_covers_and_knows_its_limits():
    rng = np.random.default_rng(1)
    samples = rng.normal(2.0, 3.0, size=(2000, 5))
    intervals = [mean_interval(row) for row in samples]
    covered = np.mean([i is not None and i.lower <= 2.0 <= i.upper for i in intervals])
    assert covered == pytest.approx(0.95, abs=0.015)
    assert mean_interval([1.0]) is None
    same = mean_interval([0.5, 0.5, 0.5])
    assert same is not None
    assert same.lower == same.upper == 0.5
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.nan])
