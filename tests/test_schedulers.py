"""Every scheduler's contract, and successive halving against a slow twin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.schedulers import SCHEDULERS, Asha, Budget, Standing


def at(epochs_done, metric, log2_ratio):
    return Standing(epochs_done, (-metric, -log2_ratio))


BUDGETS = [Budget(1), Budget(2), Budget(12), Budget(12, min_fidelity=9), Budget(100, 7)]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
class TestContract:
    def test_milestones_ascend_within_fidelity_and_budget(self, name, budget):
        rungs = SCHEDULERS.build(name).milestones(budget)
        assert list(rungs) == sorted(set(rungs))
        assert all(max(1, budget.min_fidelity) <= r < budget.epochs for r in rungs)

    def test_nothing_stops_between_milestones(self, name, budget):
        scheduler = SCHEDULERS.build(name)
        rungs, milestones = scheduler.start(budget), scheduler.milestones(budget)
        for trial in range(30):
            for epoch in set(range(budget.epochs)) - set(milestones):
                assert rungs.on_report(str(trial), at(epoch, -float(trial), 1.0))

    def test_the_first_at_a_rung_goes_on(self, name, budget):
        scheduler = SCHEDULERS.build(name)
        for milestone in scheduler.milestones(budget):
            assert scheduler.start(budget).on_report("a", at(milestone, 0.1, 1.0))

    def test_reporting_again_changes_nothing(self, name, budget):
        scheduler = SCHEDULERS.build(name)
        for milestone in scheduler.milestones(budget):
            once, twice = scheduler.start(budget), scheduler.start(budget)
            for i, metric in enumerate([0.5, 0.2, 0.9, 0.2, 0.7]):
                first = once.on_report(str(i), at(milestone, metric, 1.0))
                again = [twice.on_report(str(i), at(milestone, metric, 1.0)) for _ in range(3)]
                assert again == [first] * 3


def _twin(reports, eta, width, milestone):
    """Successive halving, spelled out: rank among all of one's stratum so far."""
    decisions, seen = [], []
    for metric, ratio in reports:
        seen.append((metric, ratio))
        peers = [m for m, r in seen if math.floor(r / width) == math.floor(ratio / width)]
        rank = sorted(peers, reverse=True).index(metric)  # ties share the best of their ranks
        decisions.append(rank < math.ceil(len(peers) / eta))
    return decisions


@given(
    reports=st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.5, 0.9]), st.floats(-2, 6)), max_size=40
    ),
    eta=st.sampled_from([1.5, 2.0, 3.0, 4.0]),
    width=st.sampled_from([0.5, 1.0, 64.0]),
)
def test_asha_equals_its_twin(reports, eta, width):
    asha = Asha(eta=eta, stratum=width)
    (milestone, *_), rungs = asha.milestones(Budget(12)), asha.start(Budget(12))
    decisions = [
        rungs.on_report(str(i), at(milestone, metric, ratio))
        for i, (metric, ratio) in enumerate(reports)
    ]
    assert decisions == _twin(reports, eta, width, milestone)


def test_default_rungs_are_a_third_then_doubled():
    assert Asha().milestones(Budget(12)) == (4, 8)
    assert Asha().milestones(Budget(27)) == (9, 18)
    assert Asha(eta=4.0).milestones(Budget(100)) == (34,)


def test_a_strongly_compressed_trial_is_not_ranked_against_a_large_one():
    rungs = Asha().start(Budget(12))
    for i in range(20):
        rungs.on_report(f"large {i}", at(4, 0.98, 0.1))
    assert rungs.on_report("small", at(4, 0.6, 3.2))
    alone = Asha(stratum=64.0).start(Budget(12))
    for i in range(20):
        alone.on_report(f"large {i}", at(4, 0.98, 0.1))
    assert not alone.on_report("small", at(4, 0.6, 3.2))
