"""The search benchmark's own parts: virtual time, the surrogate, the arms."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from analysis.fronts import hypervolume
from compression.registry import InvalidSetting
from trainables.record import Objective, Status

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import record_curves
from rivals import MISSING, RIVALS, arm
from search import Job, reached, rules_of, search
from simulated import Landed, Rules, losses_of, simulate, volumes
from surrogate import Features, Forest, Foretold, Surrogate, held_out, size

REFERENCE = (-0.1, 0.0)


class Scripted:
    """Suggests what it was given and stops what it was told to."""

    def __init__(self, script, stops=None):
        self.script, self.stops = iter(script), stops or {}
        self.results = {}

    def suggest(self, number):
        name = next(self.script, None)
        return None if name is None else {"name": name}

    def on_report(self, number, at):
        return self.stops.get(number) != at.epochs_done

    def on_end(self, number, result):
        self.results[number] = result


def rules(trials, workers, budget):
    return Rules(
        lambda params: trials[params["name"]],
        lambda params: params["name"],
        Objective("accuracy"),
        workers,
        budget,
    )


def trial(metric, epoch=1.0, ratio=2, fails_in=None):
    return Foretold(tuple(metric), 1000, 1000 * ratio, 1, 1.0, epoch, fails_in)


def test_a_trace_is_as_computed_by_hand():
    trials = {
        "a": trial([0.1, 0.6, 0.5]),
        "b": trial([0.2, 0.3, 0.9], epoch=1.5, ratio=4),
        "c": trial([0.4], ratio=8),
        "d": trial([0.1, 0.2]),
        "e": trial([0.1, 0.2]),
    }
    # b is stopped after its first epoch, at 2.5; c follows until 3.5, then e.
    # a ends at 3.0; a second a is answered at once; d follows. At 4.0 the 8 are spent.
    scripted = Scripted(["a", "b", "c", "a", "d", "e"], stops={1: 1})
    played = simulate(scripted, rules(trials, workers=2, budget=8.0))
    assert played.landed == [
        Landed(5.0, (-0.3, -2.0)),
        Landed(6.0, (-0.6, -1.0)),
        Landed(7.0, (-0.4, -3.0)),
    ]
    assert (played.suggested, played.ended, played.stopped, played.answered) == (6, 3, 1, 1)
    assert played.busy == pytest.approx(8.0)
    assert scripted.results[3].losses == scripted.results[0].losses == (-0.6, -1.0)
    assert scripted.results[1].status is Status.STOPPED
    assert [at.epochs_done for at in scripted.results[1].reports] == [0, 1]
    shares = volumes(played.landed, [4.9, 5.0, 6.0, 8.0], REFERENCE, best=1.0)
    # b spans 0.2 x 2, a adds what is above b, c dominates b.
    assert shares == pytest.approx([0.0, 0.2 * 2, 0.2 * 2 + 0.3 * 1, 0.3 * 3 + 0.2 * 1])


def test_a_failed_trial_costs_what_it_took_and_counts_nothing():
    scripted = Scripted(["a", "b"])
    trials = {"a": trial([0.5, 0.6, 0.7], fails_in=2), "b": trial([0.4])}
    played = simulate(scripted, rules(trials, workers=1, budget=10.0))
    assert [one.spent for one in played.landed] == [4.0]  # a until 3.0, then the set-up of b
    assert scripted.results[0].losses is None
    assert scripted.results[0].status is Status.FAILED
    assert [at.epochs_done for at in scripted.results[0].reports] == [0, 1]


def test_a_duplicate_of_what_runs_waits_for_it():
    scripted = Scripted(["a", "a", "b"])
    trials = {"a": trial([0.5, 0.6]), "b": trial([0.4])}
    played = simulate(scripted, rules(trials, workers=2, budget=20.0))
    assert played.answered == 1
    assert scripted.results[1].losses == scripted.results[0].losses
    assert played.busy == 3.0


def test_a_report_says_the_seconds_since_its_start():
    scripted = Scripted(["b", "a"])
    trials = {"a": trial([0.5, 0.6], epoch=1.5), "b": trial([0.4])}
    timed = dataclasses.replace(rules(trials, workers=1, budget=20.0), unit=0.1)
    simulate(scripted, timed)
    assert [at.seconds for at in scripted.results[1].reports] == pytest.approx([0.1, 0.25])


TRIALS = st.builds(
    trial,
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
    st.floats(0.1, 3.0),
    st.integers(1, 16),
    st.none() | st.integers(1, 3),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(TRIALS, min_size=1, max_size=5), st.integers(1, 4), st.floats(0.5, 20.0))
def test_workers_that_have_work_spend_the_budget_and_no_more(kinds, workers, budget):
    trials = {number: kinds[number % len(kinds)] for number in range(150)}
    stops = {number: number % 4 for number in range(150)}
    played = simulate(Scripted(trials, stops), rules(trials, workers, budget))
    assert played.busy == pytest.approx(budget)
    spent = [one.spent for one in played.landed]
    assert spent == sorted(spent)
    assert not spent or spent[-1] <= budget * (1 + 1e-12)
    assert played.ended == len(played.landed) + played.failed


POINTS = st.builds(Landed, st.floats(0, 10), st.tuples(st.floats(-1.0, 0.0), st.floats(-4.0, 1.0)))


@settings(max_examples=30, deadline=None)
@given(st.lists(POINTS, max_size=12))
def test_shares_are_those_of_all_results_so_far(landed):
    grid = [0.0, 2.5, 5.0, 10.0]
    slow = [
        hypervolume([one.losses for one in landed if one.spent <= spent], REFERENCE) / 3.6
        for spent in grid
    ]
    assert volumes(landed, grid, REFERENCE, 3.6) == pytest.approx(slow)


def test_reached_is_the_first_share_of_the_budget_at_a_level():
    curve = np.array([0.1, 0.5, 0.5, 0.9])
    assert [reached(curve, level) for level in (0.1, 0.5, 0.9)] == [0.25, 0.5, 1.0]
    assert reached(curve, 0.91) == float("inf")


@pytest.fixture(scope="module")
def recorded():
    """Enough of task A to be quick."""
    found = record_curves.load("a")
    some = found.rows[:300] + [row for row in found.rows[300:] if row["failed"]][:5]
    return record_curves.Recorded(found.config, found.dense_bytes, found.overhead, some)


@pytest.fixture(scope="module")
def small(recorded):
    return Surrogate(recorded)


def test_the_file_is_small_and_says_what_was_recorded_and_nothing_of_where():
    assert record_curves.FILE.stat().st_size <= 5_000_000
    for task, shared in pq.read_schema(record_curves.FILE).metadata.items():
        if task in (b"a", b"b"):
            assert set(json.loads(shared)["config"]) == set(record_curves.ASKED)
    recorded = record_curves.load("a")
    epochs = recorded.config.epochs
    for row in recorded.rows:
        assert len(row["metric"]) == len(row["seconds"])
        assert row["failed"] or len(row["metric"]) == (
            1 if row["params"]["adapter"] == "none" else epochs + 1
        )
        if row["file_bytes"]:
            ratio = recorded.dense_bytes / row["file_bytes"]
            assert row["log2_ratio"] == pytest.approx(np.log2(ratio))


def test_a_recorded_setting_comes_out_as_it_was_recorded(small, recorded):
    for row, foretold in zip(recorded.rows, small.foretell(small.settings), strict=True):
        if row["failed"]:
            assert foretold.fails_in == len(row["metric"])
        else:
            assert foretold.fails_in is None
            assert foretold.metric == pytest.approx(row["metric"], abs=1e-6)
            assert (foretold.file_bytes, foretold.macs) == (row["file_bytes"], row["macs"])
            assert foretold.log2_ratio == pytest.approx(row["log2_ratio"])


def test_no_two_settings_have_the_same_features(small, recorded):
    rows = Features(small.space).rows(small.settings)
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_forest_foretells_what_its_slow_twin_does(outputs):
    draws = np.random.default_rng(0)
    x = draws.random((60, 4), np.float32)
    y = draws.random((60, outputs)) * [1.0, 50.0, 1000.0][:outputs]
    unseen = draws.random((40, 4), np.float32)
    scale = y.std(axis=0)
    slow = ExtraTreesRegressor(64, random_state=0).fit(x, np.squeeze(y / scale)).predict(unseen)
    assert Forest(x, y)(unseen) == pytest.approx(slow.reshape(40, outputs) * scale)


def test_unseen_trials_are_ranked_well(recorded):
    found = held_out(recorded, folds=2)
    assert found["metric, best"].spearman > 0.5
    assert found["log2 ratio"].spearman > 0.75


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", record_curves.DESIGNS)
def test_unseen_trials_of_the_whole_design_are_ranked_well(task):
    found = held_out(record_curves.load(task))
    assert found["metric, best"].spearman > 0.75
    assert found["log2 ratio"].spearman > 0.9


def test_a_size_is_its_two_parts(recorded):
    row = next(row for row in recorded.rows if row["adapter_bytes"])
    rest, _, own = size(row)
    assert np.exp(rest) + own == pytest.approx(row["file_bytes"])


ARMS = ["tpe+pareto_asha", "random+fifo", *(name for name in RIVALS if name not in MISSING)]


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_plays_to_the_end_and_is_a_function_of_its_seed(name, small):
    def play(seed):
        return simulate(arm(name, small.config, seed), rules_of(small, trials=6))

    first = play(0)
    assert first.landed
    assert first.busy == pytest.approx(rules_of(small, trials=6).budget)
    assert play(0) == first
    assert play(1) != first


def test_the_same_trial_is_known_again_unless_the_arm_pays_for_duplicates(small):
    params = small.settings[0]
    free, paid = rules_of(small, 1.0), rules_of(small, 1.0, answers=False)
    assert free.key(params) == free.key(dict(params))
    assert free.key(params) != free.key(small.settings[1])
    assert paid.key(params) != paid.key(params)


def test_a_search_says_how_its_share_grew(small, monkeypatch):
    monkeypatch.setattr("search.surrogate", lambda task: small)
    best = hypervolume(
        losses_of(small.foretell(small.settings), small.config.task.objective), REFERENCE
    )
    found = search(Job("a", "random+fifo", 0, 8.0, best))
    assert list(found.curve) == sorted(found.curve)
    assert 0.0 < found.curve[-1]
    assert found.counts["ended"] >= 8


def test_arms_are_spelled_with_their_knobs(small):
    assert arm("tpe:startup=5+asha:eta=3,grace=0.5", small.config, 0)
    with pytest.raises(InvalidSetting, match="did you mean"):
        arm("tpe:startupp=5+asha", small.config, 0)
    with pytest.raises(InvalidSetting, match="did you mean"):
        arm("nsga2+ahsa", small.config, 0)
