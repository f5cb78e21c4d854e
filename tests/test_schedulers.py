"""Every scheduler's contract, and the single-metric ones against slow twins."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.registry import InvalidSetting
from study.config import parse_config
from study.schedulers import SCHEDULERS, Asha, Budget, Fifo, Hyperband, Median, ParetoAsha, Standing
from study.schedulers.hyperband import Brackets
from study.schedulers.pareto_asha import RULES

CONFIGURED = {name: SCHEDULERS.build(name) for name in SCHEDULERS} | {
    f"pareto_asha {rule}{' by cost' * bool(seconds)}": ParetoAsha(rule=rule, seconds=seconds)
    for rule in RULES
    for seconds in (0.0, 10.0)
}
BUDGETS = [Budget(1), Budget(2), Budget(12), Budget(12, min_fidelity=9), Budget(100, 7)]
ENTIRE = [Budget(1), Budget(12, min_fidelity=12)]  # a trial runs to its end or not at all


def at(epochs_done, metric, log2_ratio=1.0, *others, seconds=None):
    """A standing; at a second an epoch."""
    seconds = float(epochs_done) if seconds is None else seconds
    return Standing(epochs_done, (-metric, -log2_ratio, *others), seconds)


FEW = settings(max_examples=12)  # of each of many schedulers
GRID = st.sampled_from([0.1, 0.25, 0.5, 0.9])  # few values: many ties and duplicates


@st.composite
def curves(draw, epochs=12, objectives=3):
    """Trials by name: log2 ratio, a cost, and the metric after each epoch up to some."""
    found = {}
    for trial in range(draw(st.integers(1, 12))):
        others = [draw(GRID) for _ in range(objectives - 1)]
        metrics = draw(st.lists(GRID, min_size=1, max_size=epochs + 1))
        found[f"t{trial}"] = [at(e, metric, *others) for e, metric in enumerate(metrics)]
    return found


@pytest.mark.parametrize("scheduler", CONFIGURED.values(), ids=CONFIGURED)
@pytest.mark.parametrize("budget", [*BUDGETS, *ENTIRE], ids=str)
class TestContract:
    def test_milestones_ascend_within_fidelity_and_budget(self, scheduler, budget):
        rungs = scheduler.milestones(budget)
        assert list(rungs) == sorted(set(rungs))
        assert set(rungs) <= set(budget.room)

    def test_nothing_stops_between_milestones(self, scheduler, budget):
        rungs, milestones = scheduler.start(budget), scheduler.milestones(budget)
        for trial in range(30):
            for epoch in set(range(budget.epochs + 1)) - set(milestones):
                assert rungs.on_report(str(trial), at(epoch, -float(trial)))

    def test_the_first_at_a_rung_goes_on(self, scheduler, budget):
        for milestone in scheduler.milestones(budget):
            assert scheduler.start(budget).on_report("a", at(milestone, 0.1))

    def test_reporting_again_changes_nothing(self, scheduler, budget):
        for milestone in scheduler.milestones(budget):
            once, twice = scheduler.start(budget), scheduler.start(budget)
            for i, metric in enumerate([0.5, 0.2, 0.9, 0.2, 0.7]):
                first = once.on_report(str(i), at(milestone, metric))
                again = [twice.on_report(str(i), at(milestone, metric)) for _ in range(3)]
                assert again == [first] * 3

    def test_a_study_that_can_stop_nothing_is_told_so_and_not_refused(self, scheduler, budget):
        assert list(scheduler.refusals(budget)) == []
        said = budget in ENTIRE and scheduler.name != "fifo"
        assert len(list(scheduler.notes(budget))) == said


@pytest.mark.parametrize("scheduler", CONFIGURED.values(), ids=CONFIGURED)
class TestStates:
    @FEW
    @given(data=st.data(), found=curves())
    def test_a_verdict_depends_on_who_reported_not_in_which_order(self, scheduler, data, found):
        """Each trial's own reports stay in order."""
        budget = Budget(12, min_fidelity=2)
        turns = [trial for trial, reports in found.items() for _ in reports]
        last = at(data.draw(st.sampled_from(scheduler.milestones(budget) or [1])), 0.25, 0.25, 0.5)
        verdicts = set()
        for order in (turns, data.draw(st.permutations(turns))):
            rungs, left = scheduler.start(budget), {k: iter(v) for k, v in found.items()}
            for trial in order:
                rungs.on_report(trial, next(left[trial]))
            verdicts.add(rungs.on_report("last", last))
        assert len(verdicts) == 1

    @FEW
    @given(found=curves())
    def test_a_trial_that_starts_again_leaves_no_trace(self, scheduler, found):
        budget = Budget(12, min_fidelity=2)
        straight, again = scheduler.start(budget), scheduler.start(budget)
        for trial, reports in found.items():
            for report in reports[: len(reports) // 2]:
                again.on_report(trial, report)
            for report in reports:
                assert straight.on_report(trial, report) == again.on_report(trial, report)

    @FEW
    @given(found=curves(objectives=3))
    def test_a_third_objective_that_is_constant_has_no_say(self, scheduler, found):
        budget = Budget(12)
        with_it, without = scheduler.start(budget), scheduler.start(budget)
        for trial, reports in found.items():
            for report in reports:
                three = Standing(report.epochs_done, (*report.losses[:2], 7.0), report.seconds)
                two = Standing(report.epochs_done, report.losses[:2], report.seconds)
                assert with_it.on_report(trial, three) == without.on_report(trial, two)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_comes_to_a_scheduler(wrong):
    with pytest.raises(ValueError, match="after epoch 3 not finite"):
        Standing(3, (0.5, wrong))


def refused(text, epochs=12):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\nepochs: {epochs}\nscheduler: {text}", "bad.yaml")
    return caught.value.errors


@pytest.mark.parametrize("name", ["pareto_asha", "asha", "hyperband"])
@pytest.mark.parametrize("eta", [1, 1.0, 0.5, -2])
def test_eta_must_be_above_1(name, eta):
    (error,) = refused(f"{{{name}: {{eta: {eta}}}}}")
    assert error.startswith(f"bad.yaml:3: scheduler.{name}.eta: expected a number above 1, up to")
    assert SCHEDULERS.build(name, {"eta": 1.0001}).milestones(Budget(4))


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if "grace" in SCHEDULERS[n].knobs()])
def test_grace_is_a_share_that_leaves_a_rung(name):
    (error,) = refused(f"{{{name}: {{grace: 1.2}}}}")
    assert f"{name}.grace: expected a number from 0.0 to 1.0, got 1.2" in error
    (error,) = refused(f"{{{name}: {{grace: 0.95}}}}")
    assert error.startswith("bad.yaml:3: scheduler: grace: after 0.95 of 12 epochs no rung is left")
    assert "at most 0.91" in error
    assert SCHEDULERS.build(name, {"grace": 0.91}).milestones(Budget(12)) == (11,)


@given(epochs=st.integers(2, 300), grace=st.floats(0, 1))
def test_the_largest_grace_that_is_named_leaves_a_rung(epochs, grace):
    budget = Budget(epochs)
    for error in Asha(grace=grace).refusals(budget):
        most = float(error.split("at most ")[1].split(",")[0])
        assert Asha(grace=most).milestones(budget)
        break
    else:
        assert Asha(grace=grace).milestones(budget)


def test_rungs_begin_at_a_share_of_the_epochs_and_grow_by_eta():
    for scheduler in (Asha(), ParetoAsha(eta=2.0, grace=1 / 3)):
        assert scheduler.milestones(Budget(12)) == (4, 8)
        assert scheduler.milestones(Budget(27)) == (9, 18)
    assert ParetoAsha().milestones(Budget(24)) == (2, 6, 18)
    assert Asha(eta=4.0).milestones(Budget(100)) == (34,)
    assert Asha(grace=0.55).milestones(Budget(100)) == (55,)


def _best_of(seen, metric, eta):
    """Successive halving, spelled out; ties share the best of their ranks."""
    return sorted(seen, reverse=True).index(metric) < math.ceil(len(seen) / eta)


@given(metrics=st.lists(GRID, max_size=40), eta=st.sampled_from([1.5, 2.0, 3.0, 4.0]))
def test_asha_equals_its_twin(metrics, eta):
    rungs, seen = Asha(eta=eta).start(Budget(12)), []
    for i, metric in enumerate(metrics):
        seen.append(metric)
        assert rungs.on_report(str(i), at(4, metric, float(i))) == _best_of(seen, metric, eta)


@given(st.lists(st.tuples(GRID, st.sampled_from([1, 3, 9])), max_size=60))
def test_hyperband_halves_within_a_bracket_and_spares_its_early_epochs(reports):
    hyperband = Hyperband()
    assert hyperband.milestones(Budget(12)) == (1, 3, 9)
    brackets = Brackets((1, 3, 9), hyperband.eta)
    rungs, seen = hyperband.start(Budget(12)), {}
    for i, (metric, epoch) in enumerate(reports):
        bracket = brackets.bracket(str(i))
        peers = seen.setdefault((bracket, epoch), [])
        peers.append(metric)
        judged = epoch in (1, 3, 9)[bracket:]
        expected = not judged or _best_of(peers, metric, hyperband.eta)
        assert rungs.on_report(str(i), at(epoch, metric)) == expected


def test_brackets_share_trials_as_their_weights_say():
    brackets, n = Brackets((1, 3, 9), 3.0), 20_000
    found = Counter(brackets.bracket(str(i)) for i in range(n))
    weights = [27 / 4, 9 / 3, 3 / 2, 1]
    for bracket, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = math.sqrt(n * share * (1 - share))
        assert abs(found[bracket] - n * share) < 5 * deviation


@given(curves(objectives=2), st.integers(1, 4))
def test_median_equals_its_twin(found, least):
    budget = Budget(12)
    rungs, seen = Median(least=least).start(budget), {}
    for trial, reports in found.items():
        for report in reports:
            seen.setdefault(trial, []).append(report.losses[0])
            epoch = report.epochs_done
            others = [
                statistics.fmean(losses[: epoch + 1])
                for other, losses in seen.items()
                if other != trial and len(losses) > epoch
            ]
            enough = 4 <= epoch < 12 and len(others) >= least
            worse = enough and min(seen[trial]) > statistics.median(others)
            assert rungs.on_report(trial, report) == (not worse)


def test_single_metric_rules_delete_what_is_strongly_compressed_and_pareto_asha_does_not():
    """What their docstrings say of them."""
    # Reached alike by every scheduler: a trial of hyperband's that its first bracket judges.
    small = next(t for t in map(str, range(99)) if Brackets((1, 3, 9), 3.0).bracket(t) == 0)
    verdicts = {}
    for name, scheduler in CONFIGURED.items():
        budget = Budget(12)
        rungs = scheduler.start(budget)
        for i in range(100):
            for epoch in range(13):
                rungs.on_report(f"large {i}", at(epoch, 0.98, 0.1))
        verdicts[name] = all(rungs.on_report(small, at(epoch, 0.6, 3.2)) for epoch in range(13))
    assert verdicts == {
        name: scheduler == Fifo() or isinstance(scheduler, ParetoAsha)
        for name, scheduler in CONFIGURED.items()
    }
