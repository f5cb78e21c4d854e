"""The rules of pareto_asha, each against a twin that spells it out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.schedulers import Budget, ParetoAsha, Standing
from study.schedulers.ladders import AtSeconds
from study.schedulers.rankings import crowding
from study.schedulers.reach import Front
from trainables.record import Direction, Objective

ETAS = st.sampled_from([1.2, 1.5, 2.0, 3.0, 4.0])
FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # exact in binary, and often alike
ANY = st.floats(-4, 4, allow_subnormal=False)


def _by_thirds(**knobs):
    """Rungs at a third of the epochs and, with an eta of 2, at two thirds."""
    return ParetoAsha(**{"eta": 2.0, "grace": 1 / 3, **knobs})


def points(values, most=20):
    """Lists of losses in 2 or 3 objectives, with ties, duplicates and constant objectives."""

    def of(width):
        one = st.tuples(*[values] * width)
        constant = st.tuples(*[values] * (width - 1), st.just(0.5))
        lists = [st.lists(each, min_size=1, max_size=most) for each in (one, constant)]
        return st.one_of(*lists)

    return st.sampled_from([2, 3]).flatmap(of)


CLOUDS = st.one_of(points(FEW), points(ANY))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def layers_of(cloud):
    """The front, the front of what is left, and so on: each a set of distinct points."""
    left, layers = set(cloud), []
    while left:
        layers.append({p for p in left if not any(dominates(other, p) for other in left)})
        left -= layers[-1]
    return layers


def room_of(point, layer):
    """Crowding distance, spelled out."""
    room = 0.0
    for i, own in enumerate(point):
        values = [other[i] for other in layer]
        if min(values) < max(values):
            below, above = [v for v in values if v < own], [v for v in values if v > own]
            if not below or not above:
                return math.inf
            room += (min(above) - max(below)) / (max(values) - min(values))
    return room


def layers_twin(cloud, eta):
    """Whether the last goes on: sort by layer, then by room; the best ceil(n / eta)."""
    rank = {
        point: (number, -room_of(point, layer))
        for number, layer in enumerate(layers_of(cloud))
        for point in layer
    }
    better = sum(rank[other] < rank[cloud[-1]] for other in cloud)
    return better < math.ceil(len(cloud) / eta)


def regret_of(point, cloud):
    """How far the metric's loss is above the least of what is no worse in all the rest."""
    no_worse = [
        other[0]
        for other in cloud
        if all(x <= y for x, y in zip(other[1:], point[1:], strict=True))
    ]
    return point[0] - min(no_worse)


def regret_twin(cloud, eta):
    regrets = [regret_of(point, cloud) for point in cloud]
    return sum(other < regrets[-1] for other in regrets) < math.ceil(len(cloud) / eta)


def strata_twin(cloud, eta, width=0.5):
    """Rank by metric among all of one's stratum so far."""
    *_, (metric, size, *_) = cloud
    stratum = math.floor(-size / width)
    peers = [m for m, s, *_ in cloud if math.floor(-s / width) == stratum]
    return sorted(peers).index(metric) < math.ceil(len(peers) / eta)


TWINS = {"layers": layers_twin, "regret": regret_twin, "strata": strata_twin}


@pytest.mark.parametrize("rule", TWINS)
@settings(max_examples=60)
@given(cloud=CLOUDS, eta=ETAS)
def test_a_rule_equals_its_twin_at_every_report(rule, cloud, eta):
    rungs = _by_thirds(rule=rule, eta=eta).start(Budget(12))
    for i, losses in enumerate(cloud):
        verdict = rungs.on_report(str(i), Standing(4, losses))
        assert verdict == TWINS[rule](cloud[: i + 1], eta)


@pytest.mark.parametrize("rule", ["layers", "regret"])
@settings(max_examples=40)
@given(cloud=points(FEW), eta=ETAS, data=st.data())
def test_a_trial_that_reports_something_else_is_ranked_by_that(rule, cloud, eta, data):
    """A trial that starts again on another machine may come out a little different."""
    rungs = _by_thirds(rule=rule, eta=eta).start(Budget(12))
    for i, losses in enumerate(cloud):
        rungs.on_report(str(i), Standing(4, losses))
    changed = data.draw(st.integers(0, len(cloud) - 1))
    rungs.on_report(str(changed), Standing(4, cloud[-1]))
    after = [cloud[-1] if i == changed else losses for i, losses in enumerate(cloud)]
    assert rungs.on_report("last", Standing(4, cloud[0])) == TWINS[rule]([*after, cloud[0]], eta)


@pytest.mark.parametrize("rule", ["regret", "reach"])
@given(cloud=CLOUDS, eta=ETAS)
def test_no_member_of_the_rungs_front_is_stopped(rule, cloud, eta):
    rungs = _by_thirds(rule=rule, **({"eta": eta} if rule == "regret" else {})).start(Budget(12))
    for i, losses in enumerate(cloud):
        verdict = rungs.on_report(str(i), Standing(4, losses))
        assert verdict or any(dominates(other, losses) for other in cloud[:i])


@given(points(ANY), st.floats(0.1, 8))
def test_regret_is_no_more_than_what_the_metric_has_to_rise(cloud, scale):
    """Raised by more than its regret, a point is on the front; the unit of sizes is no matter."""
    *others, (metric, *rest) = cloud
    regret = regret_of(cloud[-1], cloud)
    raised = (metric - regret - 1e-9, *rest)
    assert not any(dominates(other, raised) for other in others)
    scaled = [(m, *(scale * r for r in sizes)) for m, *sizes in cloud]
    assert regret_of(scaled[-1], scaled) == regret


CYCLE = [(0.0, 0.5, 1.0), (0.5, 1.0, 0.0), (1.0, 0.0, 0.5)]  # each better than the next in two


@pytest.mark.parametrize("rule", ["layers", "regret"])
def test_incomparable_points_all_go_on(rule):
    rungs = _by_thirds(rule=rule, eta=16.0).start(Budget(12))
    assert all(rungs.on_report(str(i), Standing(4, p)) for i, p in enumerate(CYCLE))
    if rule == "regret":  # no quota on a front
        assert all(rungs.on_report(f"{i}!", Standing(4, p)) for i, p in enumerate(CYCLE * 9))
    assert not rungs.on_report("behind all", Standing(4, (1.0, 1.0, 1.0)))


@given(cloud=points(FEW), eta=ETAS, rule=st.sampled_from(["layers", "regret"]))
def test_directions_are_turned_by_the_objective_alone(cloud, eta, rule):
    """Accuracy up or error down: the same trials go on."""
    up, down = Objective("accuracy"), Objective("error", Direction.MINIMIZE)
    verdicts = []
    for metric, sign in ((up, -1.0), (down, 1.0)):
        rungs = _by_thirds(rule=rule, eta=eta).start(Budget(12))
        verdicts.append(
            [
                rungs.on_report(str(i), Standing(4, (metric.loss(sign * first), *rest)))
                for i, (first, *rest) in enumerate(cloud)
            ]
        )
    assert verdicts[0] == verdicts[1]


@given(st.lists(st.tuples(FEW, FEW, FEW), min_size=1, max_size=12))
def test_crowding_is_blind_to_order_repeats_and_units(layer):
    array = np.array(layer)
    found = crowding(array)
    assert found.tolist() == crowding(array[::-1])[::-1].tolist()
    assert found.tolist() == crowding(np.vstack([array, array]))[: len(array)].tolist()
    assert found.tolist() == crowding(array * [1.0, 2.0, 0.25] + [0.0, 1.0, 0.0]).tolist()


def test_crowding_of_evenly_spaced_points():
    """Four steps of a quarter of the range in each objective: the room within is 1/2 + 1/2."""
    line = np.array([(i / 4, 1 - i / 4) for i in range(5)])
    assert crowding(line).tolist() == [math.inf, 1.0, 1.0, 1.0, math.inf]


@given(CLOUDS)
def test_the_front_that_grows_equals_the_definition(cloud):
    front = Front()
    for i, point in enumerate(cloud):
        before = cloud[:i]
        assert front.dominates(point) == any(dominates(other, point) for other in before)
        front.add(point)
        rebuilt = Front(cloud[: i + 1])
        assert rebuilt.dominates(point) == front.dominates(point)


METRICS = st.lists(FEW, min_size=13, max_size=13)
TRIALS = st.lists(st.tuples(METRICS, FEW), min_size=1, max_size=8)


def _reach(finished):
    rungs = _by_thirds(rule="reach").start(Budget(12))
    for i, (losses, size) in enumerate(finished):
        for epoch, loss in enumerate(losses):
            rungs.on_report(f"finished {i}", Standing(epoch, (loss, size)))
    return rungs


@given(finished=TRIALS, curve=METRICS, size=FEW, gain=st.floats(0, 1))
def test_reach_stops_none_that_would_get_to_the_front_within_the_gains_seen(
    finished, curve, size, gain
):
    """At each rung: what it will come to, if it gains no more than the most that any did."""
    rungs, standing = _reach(finished), []
    for losses, other in finished:
        standing += [(loss, other) for loss in losses]
    for epoch, loss in enumerate(curve[:9]):
        standing.append((loss, size))
        verdict = rungs.on_report("judged", Standing(epoch, (loss, size)))
        most = max(losses[epoch] - min(losses[epoch:]) for losses, _ in finished)
        comes_to = (loss - gain * most, size)
        assert verdict or any(dominates(other, comes_to) for other in standing)
        if epoch in (4, 8):
            hopeless = any(dominates(other, (loss - most, size)) for other in standing)
            assert verdict == (not hopeless)


def test_reach_lets_everything_go_on_until_one_has_finished():
    rungs = _by_thirds(rule="reach").start(Budget(12))
    for i in range(50):
        assert rungs.on_report(f"good {i}", Standing(4, (0.1, -1.0)))
    assert rungs.on_report("bad", Standing(4, (0.9, 0.0)))
    rungs.on_report("good 0", Standing(12, (0.05, -1.0)))
    assert not rungs.on_report("bad", Standing(4, (0.9, 0.0)))


def test_what_a_trial_came_to_before_it_started_again_does_not_tell_against_it():
    rungs = _reach([([0.5] * 13, 0.0)])  # nothing was ever gained
    judged = [(0.4, 4), (0.1, 5)]
    assert all(rungs.on_report("cut", Standing(e, (loss, 0.0))) for loss, e in judged)
    assert rungs.on_report("cut", Standing(4, (0.4, 0.0)))


def test_a_lower_quantile_of_the_gains_stops_more():
    def verdicts(quantile):
        rungs = _by_thirds(rule="reach", quantile=quantile).start(Budget(12))
        for i in range(9):
            rungs.on_report(str(i), Standing(4, (9.0, 0.0)))
            rungs.on_report(str(i), Standing(12, (9.0 - i, 0.0)))
        return [rungs.on_report(f"at {k}", Standing(4, (float(k), 0.0))) for k in range(1, 10)]

    # The front stands at 1, gains from 0 to 8.
    assert verdicts(1.0) == [True] * 9
    assert verdicts(0.5) == [True] * 5 + [False] * 4
    assert verdicts(0.0) == [True] + [False] * 8


def test_what_is_reported_before_its_final_form_stands_in_nobodys_way():
    """A model that fades its base out is not what ships before it has none."""
    for min_fidelity, goes_on in ((0, False), (4, True)):
        rungs = _by_thirds(rule="reach").start(Budget(12, min_fidelity))
        rungs.on_report("fading", Standing(2, (0.0, -5.0)))
        rungs.on_report("done", Standing(4, (0.5, 0.0)))
        rungs.on_report("done", Standing(12, (0.5, 0.0)))
        assert rungs.on_report("judged", Standing(4, (0.4, 0.0))) == goes_on


@given(
    seconds=st.lists(st.floats(0, 5), min_size=12, max_size=12),
    min_fidelity=st.integers(0, 11),
)
def test_by_cost_a_trial_is_judged_once_at_the_first_epoch_past_each_rung(seconds, min_fidelity):
    marks, room = (4.0, 8.0, 16.0), Budget(12, min_fidelity).room
    ladder, total, passed = AtSeconds(marks, room), 0.0, 0
    for epoch, cost in enumerate(seconds):
        total += cost
        behind = sum(mark <= total for mark in marks)
        rung = ladder.rung("a", Standing(epoch, (0.0, 0.0), total))
        if epoch in room and behind > passed:
            assert rung == behind
            passed = behind
        else:
            assert rung is None


def test_by_cost_a_slow_trial_meets_its_rungs_at_earlier_epochs():
    scheduler = _by_thirds(rule="layers", eta=2.0, seconds=12.0)
    budget = Budget(12)
    assert scheduler.milestones(budget) == tuple(range(1, 12))
    for rate, rungs_at in ((1.0, [4, 8]), (4.0, [1, 2]), (0.25, [])):
        rungs = scheduler.start(budget)
        for i in range(20):  # far better ones, met at both rungs
            for epoch in (4, 8):
                rungs.on_report(f"good {i}", Standing(epoch, (0.0, 0.0), float(epoch)))
        stops = [
            epoch
            for epoch in range(12)
            if not rungs.on_report("slow", Standing(epoch, (1.0, 1.0), rate * epoch))
        ]
        assert stops == rungs_at


@pytest.mark.parametrize("knobs", [{"rule": "regret", "stratum": 1.0}, {"quantile": 0.5}])
def test_a_knob_of_another_rule_is_refused(knobs):
    with pytest.raises(ValueError, match="has no effect here"):
        ParetoAsha(**knobs)


def test_a_strongly_compressed_trial_is_judged_at_its_size():
    for rule in ("regret", "layers", "strata", "reach"):
        rungs = _by_thirds(rule=rule).start(Budget(12))
        for i in range(20):
            for epoch in range(13):
                rungs.on_report(f"large {i}", Standing(epoch, (-0.98, -0.1)))
        assert all(rungs.on_report("small", Standing(e, (-0.6, -3.2))) for e in (4, 8))
